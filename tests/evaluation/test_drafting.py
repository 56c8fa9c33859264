"""Drafters that choose tell of it in a comparison."""

from fly.config import FLyConfig
from fly.decoding import Request, SpeculativeDecoder
from fly.evaluation.drafting import drafting_notes
from fly.evaluation.methods import parse_method
from tests.models import blurred, prompts, tiny, tiny_tokenizer


def told(name, key="sums"):
    """The notes after some requests of a task."""
    method = parse_method(name, FLyConfig(), 2)
    target = tiny("llama")
    decoder = SpeculativeDecoder(target, blurred(target), tiny_tokenizer(), method.config)
    list(decoder.decode([Request(tuple(ids), 40, key=key) for ids in prompts(12)]))
    return drafting_notes({name: decoder.drafter.report()}), decoder.drafter.report()


def test_a_bandit_tells_its_regret():
    notes, report = told("bandit+native")
    found = report["bandit"]["situations"]["sums"]
    assert len(notes) == len(report["bandit"]["situations"])
    note = next(note for note in notes if note.startswith("bandit+native, sums: ucb1 pulled none "))
    assert f"{found['regret_share']:.1%} fewer tokens than {found['best']}" in note
    assert all(f"{arm} {of['pulls']}" in note for arm, of in found["arms"].items())


def test_an_adaptive_length_tells_its_rounds():
    (note,), report = told("native:draft_length=adaptive")
    rounds = report["rounds_by_draft_length"]
    assert f": {rounds['0']:,} of {sum(rounds.values()):,} rounds were plain" in note
    assert f"tried again {report['probes']:,} times" in note


def test_others_have_nothing_to_tell():
    assert told("native")[0] == []
