"""Drafters that choose tell of it in a comparison."""

from types import SimpleNamespace

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.workbench.methods import parse_method
from fly.workbench.notes import drafting_notes, length_notes, speed_notes
from tests.models import blurred, prompts, tiny, tiny_tokenizer


def told(name, key="sums"):
    """The notes after some requests of a task."""
    method = parse_method(name, FLyConfig(), 2)
    target = tiny("llama")
    decoder = SpeculativeDecoder(target, blurred(target), tiny_tokenizer(), method.config)
    list(decoder.decode([Request(tuple(ids), 40, key=key) for ids in prompts(12)]))
    return drafting_notes({name: decoder.report()}), decoder.report()


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


def test_pinned_lengths_are_told():
    config = FLyConfig(draft_model_path="draft")
    names = ("native:spd_k=5", "ngram+native", "suffix+native:spd_k=4", "ngram+native:spd_k=5")
    methods = [parse_method(name, config, 2) for name in names]
    assert length_notes(methods) == [
        "suffix+native:spd_k=4, ngram+native:spd_k=5: draft_length is fixed, since spd_k is named; "
        "left open it is adaptive (name draft_length=adaptive to have both)"
    ]
    assert length_notes(methods[:2]) == []


def test_slower_methods_are_told():
    config = FLyConfig(draft_model_path="draft")
    slow = Statistics(timed_rounds=12, timed_plain_s=7, timed_usual_s=10)
    pooled = [("native", slow), ("ngram+native", Statistics())]
    decoded = [
        SimpleNamespace(method=parse_method(name, config, 8), statistics=counts)
        for name, counts in pooled
    ]
    (note,) = speed_notes([SimpleNamespace(task="sums", decoded=decoded)])
    assert note.startswith("sums, native: speculation was slower than plain decoding here (0.70 ")
