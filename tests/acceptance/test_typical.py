"""Typical acceptance: the smaller of epsilon and delta exp(-H), which equality does not pass."""

import math

import pytest
import torch

from fly.acceptance import Scores
from fly.acceptance.typical import TypicalRule
from tests.acceptance.tables import Case, assert_guarded, assert_table

# H is 2 ln 4 = 2.77 nats over sixteen equal tokens: delta exp(-H) is 0.3 / 16 = 0.019.
FLAT = [1 / 16] * 16
PEAKED = [0.9, 0.08, 0.02, *[0.0] * 13]  # H 0.37: delta exp(-H) is 0.2, epsilon decides
HALF = [0.5, 0.5, *[0.0] * 14]  # H ln 2: delta exp(-H) is 0.15

CASES = {
    "any token of a flat target": Case([FLAT, HALF], [7], 1),
    "a sure target: 0.08 is not above 0.09": Case([PEAKED], [1], 0),
    "a sure target, lower epsilon": Case([PEAKED], [1], 1, settings={"epsilon": 0.07}),
    "a token below epsilon": Case([PEAKED], [2], 0, settings={"epsilon": 0.07}),
    "the second of two": Case([HALF], [1], 1),
    "no probability": Case([HALF], [2], 0),
    "a match": Case([PEAKED, PEAKED], [0, 0], 2),
    "cut at the first that is not typical": Case([FLAT, PEAKED, FLAT], [3, 2, 3], 1),
    "epsilon 1, delta decides": Case(
        [HALF], [1], 1, settings={"epsilon": 1.0, "delta": 0.99}
    ),
    "delta too large": Case([HALF], [1], 0, settings={"epsilon": 1.0, "delta": 1.01}),
    "nothing proposed": Case([HALF], [], 0),
}  # fmt: skip


def test_decisions():
    assert_table(TypicalRule, CASES)


def test_equality_is_refused():
    case = Case([[0.75, 0.25, 0.0, 0.0]], [1], 0)
    below = math.nextafter(0.25, 0) - 1e-7
    table = {"at": (0.25, 0), "below": (below, 1)}
    for epsilon, count in table.values():
        settings = {"epsilon": epsilon, "delta": 9.0}
        assert_table(TypicalRule, {"": Case(case.target, case.ids, count, settings=settings)})


def test_the_entropy_is_that_of_all_tokens_behind_the_processors():
    """By raw logits any of 16 would do; behind a filter that leaves two, epsilon decides."""
    raw = torch.zeros(1, 2, 16)
    processed = raw.clone()
    processed[..., 1] = -3.0
    processed[..., 2:] = -math.inf
    scores = Scores(raw, torch.tensor([[1]]), torch.tensor([1]), processed=processed)
    assert scores.p_draft.item() == pytest.approx(1 / (1 + math.exp(3)), abs=1e-6)
    assert not TypicalRule().accept(scores).loose.any()
    raw_scores = Scores(raw, torch.tensor([[1]]), torch.tensor([1]))
    assert TypicalRule().accept(raw_scores).loose.all()


def test_guards():
    assert_guarded(TypicalRule(), Case([FLAT, HALF], [7], 1))


def test_defaults_are_medusas():
    rule = TypicalRule()
    assert (rule.epsilon, rule.delta, rule.required_followers) == (0.09, 0.3, 1)
    assert rule.delta == pytest.approx(math.sqrt(rule.epsilon))
    assert not rule.is_lossless
