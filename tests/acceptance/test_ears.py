"""EARS: the law that its formula implies; greedy rows are native's."""

import pytest
import torch
from pydantic import ValidationError

from fly.acceptance import Reason, RejectionSampling, Scores, leading_true
from fly.acceptance.ears import EarsRule
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig
from fly.errors import ConfigError
from tests.acceptance import laws
from tests.acceptance.loosened import logits_of, same_as_native
from tests.acceptance.sampled import decoded
from tests.models import tiny


def formula(tolerance):
    def accept(p, q, token):
        if q[token] == 0 or p[token] == 0:  # what the target cannot emit is never kept
            return 0.0
        return min(1.0, p[token] / q[token] + tolerance * (1 - max(p)))

    return accept


@pytest.mark.parametrize("is_drawn", [True, False], ids=["drawn draft", "certain draft"])
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0])
def test_the_law_is_the_formulas(tolerance, is_drawn):
    rule = EarsRule(tolerance=tolerance)
    found = laws.of_code(rule, None, is_drawn)
    assert laws.farthest(found, laws.of_formula(formula(tolerance), None, is_drawn)) < 1e-6
    distance = laws.variation(laws.sequences(found), laws.targets_own())
    assert (distance < 1e-6) == rule.is_lossless == (tolerance == 0)


def sampled(p, q, draws, ids, lengths=None, is_sampled=True, **given):
    """Scores of rows [B, K+1, V] at acceptance draws [B, K]."""
    ids = torch.tensor(ids)
    table = torch.zeros(len(ids), ids.shape[1] + 1, 2, dtype=torch.float64)
    table[:, :-1, 0] = torch.tensor(draws, dtype=torch.float64)
    rows = torch.full((len(ids),), is_sampled)
    law = RejectionSampling(torch.tensor(p), torch.tensor(q), table, rows)
    sizes = [ids.shape[1]] * len(ids) if lengths is None else lengths
    return Scores(law.target.log(), ids, torch.tensor(sizes), law=law, **given)


FLAT, SURE, OTHER = [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]
# p, q, draw, kept: of token 0 at b = 0.4
CASES = {
    "native": (FLAT, OTHER, 0.24, True),
    "kept within the tolerance: 0.25 + 0.4 * 0.75": (FLAT, OTHER, 0.549, True),
    "boundary refuses": (FLAT, OTHER, 0.5501, False),
    "a sure target tolerates nothing": (SURE, OTHER, 0.0001, False),
    "a token that the draft cannot draw": (FLAT, SURE, 0.0, False),
}


@pytest.mark.parametrize(("p", "q", "draw", "kept"), CASES.values(), ids=CASES)
def test_ears_accepts(p, q, draw, kept):
    scores = sampled([[p, p]], [[q]], [[draw]], [[0]])
    verdict = EarsRule(tolerance=0.4).accept(scores)
    assert verdict.accepted.tolist() == [[kept]]
    assert verdict.loose.tolist() == [[kept and draw >= 0.25]]


def test_several_rows_and_padding():
    scores = sampled(
        [[FLAT] * 3] * 3, [[OTHER] * 2] * 3, [[0.5, 0.5], [0.5, 0.6], [0.6, 0.1]], [[0, 0]] * 3,
        lengths=[1, 2, 2],
    )  # fmt: skip
    verdict = EarsRule(tolerance=0.4).accept(scores)
    loose, gate, outside = Reason.LOOSE, Reason.GATE, Reason.OUTSIDE
    assert verdict.reason.tolist() == [[loose, outside], [loose, gate], [gate, Reason.MATCH]]
    assert leading_true(verdict.accepted).tolist() == [1, 1, 0]


def test_protected_tokens_and_locked_places_are_native():
    rows = [[FLAT] * 2], [[OTHER]], [[0.5]], [[0]]
    protected = torch.tensor([True, False, False, False])
    for given in ({"protected": protected}, {"locked": torch.tensor([[True]])}):
        verdict = EarsRule(tolerance=1.0).accept(sampled(*rows, **given))
        assert verdict.reason.tolist() == [[Reason.PROTECTED]]
    assert EarsRule(tolerance=1.0).accept(sampled(*rows)).reason.tolist() == [[Reason.LOOSE]]


def test_greedy_rows_are_native():
    probs = [[0.4, 0.35, 0.25]] * 2
    plain = logits_of([probs] * 2, [[1], [0]])
    one_hot = [[1.0, 0.0, 0.0]] * 2
    mixed = sampled(
        [one_hot] * 2, [[[0.0, 1.0, 0.0]], [one_hot[0]]], [[0.0], [0.9]], [[1], [0]],
        is_sampled=False,
    )  # fmt: skip
    for scores in (plain, mixed):
        own, native = (rule.accept(scores) for rule in (EarsRule(tolerance=1.0), NativeRule()))
        assert own.accepted.tolist() == native.accepted.tolist() == [[False], [True]]


def test_no_tolerance_is_native():
    same_as_native("ears", {"tolerance": 0.0}, 1.2)
    assert EarsRule(tolerance=0.0).required_followers == 0


def test_sampled_answers_are_loosened():
    settings = {"acceptance_settings": {"tolerance": 0.8}}
    together, alone = (
        decoded(tiny("llama"), "ears", 1.2, batch_size, **settings) for batch_size in (8, 1)
    )
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert sum(result.statistics.loose for result in together) > 5


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, "0.1", True])
def test_impossible_settings(tolerance):
    with pytest.raises(ValidationError):
        EarsRule(tolerance=tolerance)


def test_greedy_decoding_is_refused():
    with pytest.raises(ConfigError, match="acceptance is 'ears', which decides where tokens are"):
        FLyConfig(acceptance="ears")
