"""Entropies, and what else rules share."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.acceptance import Scores, fused, leading_true
from fly.acceptance.scores import followed_by
from tests.models import toy_scores

quick = settings(max_examples=60, derandomize=True, deadline=None)


def scores_of(probs: list[float], dtype: torch.dtype = torch.float32) -> Scores:
    """One proposed position whose target probabilities are given."""
    row = torch.tensor(probs, dtype=torch.float64).log().to(dtype)
    return Scores(torch.stack([row, row])[None], torch.zeros(1, 1, dtype=torch.int64), ones(1))


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.int64)


def entropy(probs: list[float], kind: str = "top3") -> float:
    return scores_of(probs).entropy(kind).item()


TOP3 = {  # probabilities, nats
    "three of three": ([1 / 3] * 3, 1.0986),
    "two of two": ([0.5, 0.5], 0.6931),
    "just unsure": ([0.91, 0.09], 0.3025),
    "just sure": ([0.92, 0.08], 0.2788),
    "flat over 128256": ([1 / 128256] * 128256, 0.00028),
    "certain": ([1.0, 0.0, 0.0, 0.0], 0.0),
    "single token": ([1.0], 0.0),
    "fourth is left out": ([0.4, 0.3, 0.2, 0.1], -sum(p * math.log(p) for p in (0.4, 0.3, 0.2))),
    "not renormalised": ([0.25] * 4, 0.75 * math.log(4)),
}


@pytest.mark.parametrize(("probs", "nats"), TOP3.values(), ids=TOP3)
def test_top3_entropy(probs, nats):
    assert entropy(probs) == pytest.approx(nats, abs=5e-5)


def test_full_and_normalised_entropy():
    assert entropy([0.25] * 4, "full") == pytest.approx(math.log(4))
    assert entropy([0.25] * 4, "normalised") == pytest.approx(1.0)
    assert entropy([0.5, 0.5, 0.0, 0.0], "full") == pytest.approx(math.log(2))
    assert entropy([0.5, 0.5, 0.0, 0.0], "normalised") == pytest.approx(0.5)


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda p: sum(p) > 0.1))
def test_entropies_follow_their_definition(weights):
    probs = [weight / sum(weights) for weight in weights]
    terms = sorted((p for p in probs if p > 0), reverse=True)
    for kind, kept in {"top3": terms[:3], "full": terms, "normalised": terms}.items():
        want = -sum(p * math.log(p) for p in kept)
        want /= math.log(len(probs)) if kind == "normalised" else 1
        assert entropy(probs, kind) == pytest.approx(want, abs=1e-5)


def test_forbidden_tokens_are_no_nan():
    row = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])
    scores = Scores(row.expand(1, 3, 4), torch.tensor([[0, 2]]), torch.tensor([2]))
    for kind, want in {"top3": math.log(2), "full": math.log(2), "normalised": 0.5}.items():
        assert torch.allclose(scores.entropy(kind), torch.tensor([[want, want]]))
    assert scores.draft_possible.tolist() == [[True, False]]


def test_entropy_is_float32_in_half_precision():
    value = scores_of([0.6, 0.3, 0.1], torch.bfloat16).entropy("top3")
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.898, abs=0.01)


def test_entropy_does_not_depend_on_a_shift():
    logits = torch.randn(1, 3, 20, generator=torch.Generator().manual_seed(0))
    ids, lengths = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
    plain = Scores(logits, ids, lengths).entropy("top3")
    assert torch.allclose(Scores(logits + 50, ids, lengths).entropy("top3"), plain, atol=1e-5)


def test_positions_and_matches_end_with_the_proposal():
    scores = toy_scores(("ab", "ax", {}), ("", "", {}), ("abcd", "abcd", {}))
    assert scores.positions_after.tolist() == [[1, 0, -1, -2], [-1, -2, -3, -4], [3, 2, 1, 0]]
    assert scores.native.tolist() == [[True, False, False, False], [False] * 4, [True] * 4]
    assert scores.in_proposal.sum(-1).tolist() == [2, 0, 4]


def test_bonus_is_the_choice_behind_the_proposal():
    scores = toy_scores(("ab", "abq", {}), ("abc", "abc", {}))
    assert [chr(scores.choice[0, 2]), chr(scores.choice[1, 3])] == ["q", "z"]


@pytest.mark.parametrize(("protected", "where"), [("", []), ("b", [1]), ("x", [1]), ("z", [])])
def test_protected_tokens_of_draft_and_target(protected, where):
    scores = toy_scores(("abc", "axc", {}), protected=protected)
    assert scores.is_protected[0].nonzero()[:, 0].tolist() == where


def test_empty_batch_of_proposals():
    scores = toy_scores(("", "", {}), ("", "", {}))
    assert scores.native.shape == scores.is_protected.shape == (2, 0)
    assert scores.entropy("top3").shape == scores.draft_possible.shape == (2, 0)
    assert leading_true(scores.native).tolist() == [0, 0]


bits = st.lists(st.booleans(), max_size=12)


@quick
@given(bits)
def test_leading_true(mask):
    want = next((i for i, bit in enumerate(mask) if not bit), len(mask))
    assert leading_true(torch.tensor(mask, dtype=torch.bool)[None]).tolist() == [want]


@quick
@given(bits, st.integers(0, 14))
def test_followed_by(mask, count):
    n = len(mask)
    want = [i + count < n and all(mask[i + 1 : i + 1 + count]) for i in range(n)]
    if count == 0:
        want = [True] * n
    assert followed_by(torch.tensor(mask, dtype=torch.bool)[None], count).tolist() == [want]


def test_an_entropy_is_computed_once(monkeypatch):
    looked = []
    twin = fused.summary_of
    monkeypatch.setattr(fused, "summary_of", lambda *a, **k: looked.append(k) or twin(*a, **k))
    scores = Scores(torch.randn(2, 4, 9), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2))
    for kind in ("top3", "full", "normalised") * 2:
        scores.entropy(kind)
    assert looked == [{"with_entropy": False}, {"with_entropy": True}]
    assert not torch.equal(scores.entropy("top3"), scores.entropy("full"))
