"""Static ensemble: a token in a proposal's place follows w p + (1 - w) q exactly."""

import pytest
import torch
from pydantic import ValidationError

from fly.acceptance import Reason, RejectionSampling, Scores, leading_true
from fly.acceptance.ensemble import EnsembleRule
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig
from fly.errors import ConfigError
from tests.acceptance import laws
from tests.acceptance.loosened import check_loose_tokens, logits_of, same_as_native
from tests.acceptance.sampled import decoded, pairs_follow
from tests.models import tiny


def formula(weight):
    def accept(p, q, token):
        if p[token] == 0:  # what the target cannot emit is never kept
            return 0.0
        return min(1.0, 1 - weight + weight * p[token] / q[token])

    return accept


def mixed(weight, target, draft):
    """w p + (1 - w) q; what it gives to tokens that the target cannot emit goes to the residual."""
    left = [max(0.0, p - q) for p, q in zip(target, draft, strict=True)]
    lost = sum((1 - weight) * q for p, q in zip(target, draft, strict=True) if p == 0)
    shares = [lost * one / sum(left) if lost else 0.0 for one in left]
    return {
        token: (weight * p + (1 - weight) * q if p > 0 else 0.0) + share
        for token, (p, q, share) in enumerate(zip(target, draft, shares, strict=True))
    }


@pytest.mark.parametrize("weight", [1.0, 0.8, 0.25])
def test_the_law_of_rounds_is_the_formulas(weight):
    rule = EnsembleRule(weight=weight)
    found = laws.of_code(rule)
    assert laws.farthest(found, laws.of_formula(formula(weight))) < 1e-6
    distance = laws.variation(laws.sequences(found), laws.targets_own())
    assert (distance < 1e-6) == rule.is_lossless == (weight == 1)


@pytest.mark.parametrize("weight", [1.0, 0.8, 0.25])
def test_tokens_in_a_proposals_place_follow_the_mixture_and_bonuses_the_target(weight):
    """Behind every prefix, and at the second place behind every first token that was kept."""
    rule = EnsembleRule(weight=weight)
    for prefix, first in (((), 0), ((), 1), ((1,), 2), ((2, 0), 1)):
        cases = [((*prefix,), (first, second)) for second in range(laws.V)]
        shares = laws.draft((*prefix, first))
        found = laws.rounds(rule, [case for case, q in zip(cases, shares, strict=True) if q], True)
        reached, bonus = dict.fromkeys(range(laws.V), 0.0), {}
        weights = [share for share in shares if share]
        for law, share in zip(found, weights, strict=True):
            for tokens, chance in law.items():
                if len(tokens) > 1:
                    reached[tokens[1]] += chance * share
                if len(tokens) > 2:
                    bonus.setdefault(tokens[1], {})[tokens[2]] = chance
        total = sum(reached.values())
        text = (*prefix, first)
        want = mixed(weight, laws.target(text), laws.draft(text))
        own = {token: chance / total for token, chance in reached.items()}
        assert laws.variation(own, want) < 1e-6
        for second, law in bonus.items():
            shown = {token: chance / sum(law.values()) for token, chance in law.items()}
            assert laws.variation(shown, dict(enumerate(laws.target((*text, second))))) < 1e-6
    found = laws.of_code(rule)
    for prefix, law in found.items():
        first_law = dict.fromkeys(range(laws.V), 0.0)
        for tokens, chance in law.items():
            first_law[tokens[0]] += chance
        want = mixed(weight, laws.target(prefix), laws.draft(prefix))
        assert laws.variation(first_law, want) < 1e-6


def test_protected_tokens_keep_exactly_the_targets_probability():
    """Loosening only ever trades tokens that are not protected for one another."""
    p, q = torch.tensor([4, 1, 3, 0]) / 8, torch.tensor([1, 3, 2, 2]) / 8
    cells = 48
    middles = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    drafted = torch.repeat_interleave(torch.arange(4), (q * 8).long())
    cases = torch.cartesian_prod(torch.arange(8), torch.arange(cells), torch.arange(cells))
    size = len(cases)
    draws = torch.zeros(size, 2, 2, dtype=torch.float64)
    draws[:, 0, 0], draws[..., 1] = middles[cases[:, 1]], middles[cases[:, 2], None]
    ids, target = drafted[cases[:, :1]], p.expand(size, 2, 4)
    law = RejectionSampling(target, q.expand(size, 1, 4), draws, torch.ones(size, dtype=torch.bool))
    protected = torch.tensor([True, False, False, True])
    scores = Scores(
        target.log(), ids, torch.ones(size, dtype=torch.int64), protected, law=law,
        draft_probs=law.draft,
    )  # fmt: skip
    verdict = EnsembleRule(weight=0.5).accept(scores)
    kept = leading_true(verdict.accepted)
    first = torch.where(kept > 0, ids[:, 0], scores.choice_at(kept))
    shares = torch.bincount(first, minlength=4) / size
    assert shares[protected].tolist() == pytest.approx(p[protected].tolist(), abs=1e-6)
    assert (shares - p).abs().max() > 0.03
    assert verdict.loose.any()


# target's and draft's probabilities, drafted token, weight, kept
GREEDY = {
    "the target's choice": ([0.6, 0.3, 0.1], [0.0, 1.0, 0.0], 0, 0.9, True),
    "the mixture's choice": ([0.45, 0.4, 0.15], [0.1, 0.9, 0.0], 1, 0.8, True),
    "the target was sure": ([0.9, 0.1, 0.0], [0.1, 0.9, 0.0], 1, 0.8, False),
    "boundary: a tie goes to the lower id": ([0.75, 0.25, 0.0], [0.25, 0.75, 0.0], 1, 0.5, False),
    "just beyond it": ([0.75, 0.25, 0.0], [0.25, 0.75, 0.0], 1, 0.49, True),
}


@pytest.mark.parametrize(("p", "q", "token", "weight", "kept"), GREEDY.values(), ids=GREEDY)
def test_greedy_rows(p, q, token, weight, kept):
    verdict = EnsembleRule(weight=weight).accept(logits_of([[p, p]], [[token]], draft=[[q]]))
    assert verdict.accepted.tolist() == [[kept]]


def test_several_rows_padding_and_locked_places():
    p, q = [[0.45, 0.4, 0.15]] * 3, [[0.1, 0.9, 0.0]] * 2
    locked = torch.tensor([[False, False], [False, True], [False, False]])
    scores = logits_of([p] * 3, [[1, 1]] * 3, lengths=[2, 2, 1], draft=[q] * 3, locked=locked)
    verdict = EnsembleRule(weight=0.8).accept(scores)
    loose, locked_place, outside = Reason.LOOSE, Reason.PROTECTED, Reason.OUTSIDE
    assert verdict.reason.tolist() == [[loose, loose], [loose, locked_place], [loose, outside]]


def test_greedy_and_sampled_rows_are_each_decided_as_if_alone():
    p, q = [[0.45, 0.4, 0.15]] * 2, [[0.1, 0.9, 0.0]]
    alone = logits_of([p, p], [[1], [2]], draft=[q, q])
    draws = torch.full((3, 2, 2), 0.3, dtype=torch.float64)
    target = torch.tensor([[[1.0, 0.0, 0.0]] * 2, [[1.0, 0.0, 0.0]] * 2, p])
    law = RejectionSampling(
        target, torch.tensor([q] * 3), draws, torch.tensor([False, False, True])
    )
    mixed = Scores(
        torch.tensor([p] * 3).log(), torch.tensor([[1], [2], [1]]), torch.ones(3).long(), law=law,
        draft_probs=law.draft,
    )  # fmt: skip
    rule = EnsembleRule(weight=0.8)
    found = rule.accept(mixed).accepted.tolist()
    assert found == [*rule.accept(alone).accepted.tolist(), [True]]
    assert found[:2] == [[True], [False]]


def test_nothing_proposed():
    scores = Scores(torch.zeros(2, 1, 3), torch.zeros(2, 0).long(), torch.zeros(2).long())
    assert EnsembleRule(weight=0.5).accept(scores).accepted.shape == (2, 0)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_the_target_alone_is_native(temperature):
    same_as_native("ensemble", {"weight": 1.0}, temperature)
    scores = logits_of([[[0.4, 0.4, 0.2]] * 3], [[1, 0]], draft=[[[0.0, 1.0, 0.0]] * 2])
    own, native = (rule.accept(scores) for rule in (EnsembleRule(weight=1.0), NativeRule()))
    assert torch.equal(own.reason, native.reason)


def test_loosened_tokens_satisfy_the_rule():
    def holds(p, q):
        mixed = 0.4 * p["probs"] + 0.6 * q["probs"]
        return mixed[p["token"]] >= mixed.max() * (1 - 1e-4)

    assert check_loose_tokens("ensemble", {"weight": 0.4}, holds) > 20


def mixture(p, q):
    """The law at w = 0.4 where the target's processors leave out tokens that the draft may draw:
    these are kept as native keeps them, so their share of the mixture goes back to the target."""
    lacking, surplus = (p - q).clamp_min(0), (q - p).clamp_min(0)
    kept = 0.6 * surplus * (p > 0)
    return (
        torch.minimum(p, q)
        + kept
        + (1 - (torch.minimum(p, q) + kept).sum()) * (lacking / lacking.sum())
    )


def test_samples_follow_the_mixture():
    settings = {"acceptance_settings": {"weight": 0.4}, "protect_special_tokens": False}
    target = tiny("llama", eos_token_id=None)
    pooled = pairs_follow(target, "model", "ensemble", mixture, **settings)
    assert pooled.loose > 300
    assert pooled.corrections > 300


def test_samples_hang_on_the_seed_alone():
    settings = {"acceptance_settings": {"weight": 0.3}}
    together, alone = (
        decoded(tiny("llama"), "ensemble", 1.2, batch_size, **settings) for batch_size in (8, 1)
    )
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]


def test_a_draft_without_probabilities_is_refused():
    with pytest.raises(ConfigError, match="compares the distributions of target and draft"):
        FLyConfig(acceptance="ensemble", drafter="ngram")


@pytest.mark.parametrize("weight", [0.0, 1.1, -1.0, "0.5"])
def test_impossible_settings(weight):
    with pytest.raises(ValidationError):
        EnsembleRule(weight=weight)
