"""Ragged proposals in flat tables, as vLLM's sampler holds them: every rule decides as on padded
ones, and no table over the vocabulary is copied."""

import pytest
import torch

from fly.acceptance import RejectionSampling, Scores, rules
from fly.acceptance.tables import Layout
from tests.acceptance.rescoring import LOOSE, config_of, temperature_of, written_rules

pytestmark = pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # K may be below W
CASES = [(name, given) for name in written_rules() for given in LOOSE.get(name, [{}])]
LENGTHS = [3, 0, 5, 1, 5, 2, 4] * 24
VOCAB, K, ROWS = 9, max(LENGTHS), len(LENGTHS)


def padded(is_sampled, *, has_processors):
    """Scores [B, K+1, V] of unsure targets, and all that they are made of."""
    generator = torch.Generator().manual_seed(11)
    raw = torch.randn(ROWS, K + 1, VOCAB, generator=generator) * 1.5 + 1
    processed = raw / 0.8 if has_processors else None
    final = raw if processed is None else processed
    q = (final[:, :K] + torch.randn(ROWS, K, VOCAB, generator=generator) * 0.7).softmax(-1)
    ids = q.flatten(0, 1).multinomial(1, generator=generator).view(ROWS, K)
    draws = torch.rand(ROWS, K + 1, 2, generator=generator, dtype=torch.float64)
    protected = torch.arange(VOCAB) == 2
    made = {"raw": raw, "processed": processed, "q": q, "ids": ids, "draws": draws}
    law = None
    if is_sampled:
        made["p"] = final.softmax(-1)
        law = RejectionSampling(made["p"], q, draws, torch.ones(ROWS, dtype=torch.bool))
    lengths = torch.tensor(LENGTHS)
    scores = Scores(raw, ids, lengths, protected, processed, law, q)
    return scores, made | {"protected": protected}


def flat(made, *, has_last):
    """The same in [sum(K_b + 1), V] or [sum(K_b), V]."""

    def lines(table, more):
        if table is None:
            return None
        return torch.cat([row[: n + more] for row, n in zip(table, LENGTHS, strict=True)])

    more = int(has_last)
    sampled = {}
    if "p" in made:
        sampled = {"target_probs": lines(made["p"], more), "draws": made["draws"]}
        sampled["is_sampled"] = torch.ones(ROWS, dtype=torch.bool)
    return Scores.from_flat(
        lines(made["raw"], more),
        lines(made["ids"], 0),
        LENGTHS,
        protected=made["protected"],
        processed=lines(made["processed"], more),
        draft_probs=lines(made["q"], 0),
        **sampled,
    )


def in_proposal(values):
    return [row[:n].tolist() for row, n in zip(values, LENGTHS, strict=True)]


@pytest.mark.parametrize("has_last", [True, False], ids=["with the last lines", "without"])
@pytest.mark.parametrize("has_processors", [False, True], ids=["raw", "processed"])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{n}-{s}" for n, s in CASES])
def test_every_rule_decides_alike(name, settings, has_processors, has_last):
    where = rules.get(name).temperatures
    rule = config_of(name, temperature=temperature_of(name), **settings).setup.rule
    for is_sampled in (False, True):
        if where == ("greedy" if is_sampled else "sampled"):
            continue
        scores, made = padded(is_sampled, has_processors=has_processors)
        ragged = flat(made, has_last=has_last)
        want, found = rule.accept(scores), rule.accept(ragged)
        for part in ("accepted", "loose", "reason", "windowed"):
            assert in_proposal(getattr(found, part)) == in_proposal(getattr(want, part)), part
        assert not found.accepted[~ragged.in_proposal].any()
        assert (found.weight is None) == (want.weight is None)
        kept = torch.tensor(LENGTHS) - 1
        weight = None if want.weight is None else want.weight
        for places in (kept.clamp_min(0), *([kept + 1] if has_last else [])):
            there = scores.choice_at(places, weight) == ragged.choice_at(places, weight)
            assert there[torch.tensor(LENGTHS) > 0].all()
        assert ragged.is_finite.all()


def test_without_the_last_lines_nobody_says_what_follows():
    _, made = padded(False, has_processors=False)
    choice = flat(made, has_last=False).choice
    assert (choice.gather(1, torch.tensor(LENGTHS)[:, None]) == -1).all()
    assert (flat(made, has_last=True).choice >= 0).all()


def test_a_row_that_is_not_finite_is_that_row_alone():
    for has_last in (True, False):
        _, made = padded(False, has_processors=False)
        made["raw"][2, 1] = torch.nan
        is_finite = flat(made, has_last=has_last).is_finite
        assert is_finite.tolist() == [row != 2 for row in range(ROWS)]


@pytest.mark.parametrize("name", [name for name, _ in CASES if name not in ("block",)])
def test_no_table_is_copied(name):
    """What a rule makes of the vocabulary is new: probabilities, never lines in another order."""
    config = config_of(name, temperature=temperature_of(name))
    scores, made = padded(rules.get(name).temperatures == "sampled", has_processors=False)
    ragged = flat(made, has_last=True)
    assert ragged.table.raw.data_ptr() != scores.table.raw.data_ptr()

    def refuse(table):
        raise AssertionError("a table was laid out anew")

    for places in (ragged.layout.target, ragged.layout.draft, ragged.layout.judged):
        object.__setattr__(places, "dense", refuse)
    config.setup.rule.accept(ragged)


def test_lines_must_fit_the_lengths():
    with pytest.raises(ValueError, match=r"7 lines of logits for proposals of \[2, 1\] tokens"):
        Layout.ragged([2, 1], 7, torch.device("cpu"))
