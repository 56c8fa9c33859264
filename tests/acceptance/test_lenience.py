"""Lenience: the law that its formula implies, no token drawn more than 1/l times as often as by the
target, and its form for greedy rows."""

import pytest
import torch
from pydantic import ValidationError

from fly.acceptance import Reason, RejectionSampling, Scores, leading_true
from fly.acceptance.lenience import LenienceRule
from fly.acceptance.native import NativeRule
from tests.acceptance import laws
from tests.acceptance.loosened import check_loose_tokens, logits_of, same_as_native
from tests.acceptance.sampled import decoded
from tests.models import tiny


def formula(lenience):
    def accept(p, q, token):
        return min(1.0, p[token] / (lenience * q[token]))

    return accept


@pytest.mark.parametrize("is_drawn", [True, False], ids=["drawn draft", "certain draft"])
@pytest.mark.parametrize("lenience", [1.0, 0.7, 0.2])
def test_the_law_is_the_formulas(lenience, is_drawn):
    rule = LenienceRule(lenience=lenience)
    found = laws.of_code(rule, None, is_drawn)
    assert laws.farthest(found, laws.of_formula(formula(lenience), None, is_drawn)) < 1e-6
    distance = laws.variation(laws.sequences(found), laws.targets_own())
    assert (distance < 1e-6) == rule.is_lossless == (lenience == 1)
    for prefix, law in found.items():
        first = [0.0] * laws.V
        for tokens, chance in law.items():
            first[tokens[0]] += chance
        bounds = [p / lenience + 1e-7 for p in laws.target(prefix)]
        assert all(own <= bound for own, bound in zip(first, bounds, strict=True))


# target's probabilities, token, lenience, kept
GREEDY = {
    "the target's choice": ([0.6, 0.3, 0.1], 0, 0.5, True),
    "boundary: exactly half as likely": ([0.5, 0.25, 0.25], 1, 0.5, True),
    "just below": ([0.5, 0.24, 0.26], 1, 0.5, False),
    "a tie at 1 is refused: native's choice is the first": ([0.4, 0.4, 0.2], 1, 1.0, False),
    "a tie below 1": ([0.4, 0.4, 0.2], 1, 0.999, True),
    "impossible token": ([0.5, 0.5, 0.0], 2, 0.001, False),
}


@pytest.mark.parametrize(("probs", "token", "lenience", "kept"), GREEDY.values(), ids=GREEDY)
def test_greedy_rows(probs, token, lenience, kept):
    scores = logits_of([[probs, [1.0, 0.0, 0.0]]], [[token]])
    verdict = LenienceRule(lenience=lenience).accept(scores)
    assert verdict.accepted.tolist() == [[kept]]
    assert verdict.loose.tolist() == [[kept and token != 0]]


def test_several_rows_and_padding():
    probs = [[0.5, 0.3, 0.2]] * 3
    scores = logits_of([probs] * 4, [[1, 1], [1, 2], [2, 1], [1, 1]], lengths=[2, 2, 2, 0])
    verdict = LenienceRule(lenience=0.5).accept(scores)
    assert leading_true(verdict.accepted).tolist() == [2, 1, 0, 0]
    loose, gate, outside = Reason.LOOSE, Reason.GATE, Reason.OUTSIDE
    want = [[loose, loose], [loose, gate], [gate, loose], [outside, outside]]
    assert verdict.reason.tolist() == want


def test_protected_tokens_and_locked_places_are_native():
    probs = [[0.5, 0.3, 0.2]] * 3
    protected = torch.tensor([False, True, False])
    locked = torch.tensor([[True, False]])
    for given in ({"protected": protected}, {"locked": locked}):
        verdict = LenienceRule(lenience=0.1).accept(logits_of([probs], [[1, 1]], **given))
        assert verdict.reason[0, 0] == Reason.PROTECTED
    assert verdict.reason[0, 1] == Reason.LOOSE


# p(d), q(d), lenience, draw, kept, loose
SAMPLED = {
    "native": (0.5, 0.5, 0.5, 0.99, True, False),
    "refused by native": (0.2, 0.8, 1.0, 0.25, False, False),
    "kept at l": (0.2, 0.8, 0.5, 0.4999, True, True),
    "boundary refuses": (0.25, 1.0, 0.5, 0.5, False, False),
    "a token that the draft cannot draw": (0.2, 0.0, 0.5, 0.0, False, False),
}


@pytest.mark.parametrize(
    ("p", "q", "lenience", "draw", "kept", "loose"), SAMPLED.values(), ids=SAMPLED
)
def test_sampled_rows(p, q, lenience, draw, kept, loose):
    law = RejectionSampling(
        torch.tensor([[[p, 1 - p]] * 2]),
        torch.tensor([[[q, 1 - q]]]),
        torch.full((1, 2, 2), draw, dtype=torch.float64),
        torch.ones(1, dtype=torch.bool),
    )
    ids, lengths = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    verdict = LenienceRule(lenience=lenience).accept(
        Scores(law.target.log(), ids, lengths, law=law)
    )
    assert (verdict.accepted.item(), verdict.loose.item()) == (kept, loose)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_no_lenience_is_native(temperature):
    same_as_native("lenience", {"lenience": 1.0}, temperature)
    scores = logits_of([[[0.4, 0.4, 0.2]] * 3], [[1, 0]])
    own, native = (rule.accept(scores) for rule in (LenienceRule(lenience=1.0), NativeRule()))
    assert torch.equal(own.reason, native.reason)
    assert LenienceRule(lenience=1.0).required_followers == 0


def test_loosened_tokens_satisfy_the_rule():
    def holds(p, q):
        return p["drafted"] >= 0.3 * p["best"] * (1 - 1e-4)

    assert check_loose_tokens("lenience", {"lenience": 0.3}, holds) > 20


def test_sampled_answers_are_loosened():
    results = decoded(tiny("llama"), "lenience", 1.2, acceptance_settings={"lenience": 0.3})
    assert sum(result.statistics.loose for result in results) > 5


@pytest.mark.parametrize("lenience", [0, 0.0, 1.01, -0.5, "0.5"])
def test_impossible_settings(lenience):
    with pytest.raises(ValidationError):
        LenienceRule(lenience=lenience)
