"""Divergence: three distances between target and draft, and a threshold that equality passes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from fly.acceptance.divergence import DivergenceRule, divergence
from fly.config import FLyConfig
from fly.errors import ConfigError
from tests.acceptance.tables import Case, assert_guarded, assert_table, scores_of

P = [0.5, 0.25, 0.25, 0.0]
Q = [0.25, 0.5, 0.25, 0.0]  # tv 0.25; kl 0.25 ln 2 = 0.173; js 0.0425
APART = [0.0, 0.0, 0.0, 1.0]  # tv 1, kl infinite, js ln 2


def case(q, ids, count, **given_settings):
    return Case([P], ids, count, draft=[q], settings=given_settings)


CASES = {
    "js by default, below 0.1": case(Q, [1], 1),
    "js just below": case(Q, [1], 1, threshold=0.0425),
    "js above": case(Q, [1], 0, threshold=0.0424),
    "any token, however unlikely": case(Q, [2], 1),
    "but none that is impossible": case(Q, [3], 0, threshold=9.0),
    "js of what has nothing in common": case(APART, [1], 0, threshold=0.69),
    "it is ln 2": case(APART, [1], 1, threshold=0.6932),
    "tv at equality": case(Q, [1], 1, divergence="tv", threshold=0.25),
    "tv above": case(Q, [1], 0, divergence="tv", threshold=0.2499),
    "tv at most 1": case(APART, [1], 1, divergence="tv", threshold=1.0),
    "kl below": case(Q, [1], 1, divergence="kl", threshold=0.174),
    "kl above": case(Q, [1], 0, divergence="kl", threshold=0.173),
    "kl of what the draft excludes": case(APART, [1], 0, divergence="kl", threshold=1e30),
    "kl of what the target excludes": Case(
        [P],
        [1],
        1,
        draft=[[0.25, 0.25, 0.25, 0.25]],
        settings={"divergence": "kl"} | {"threshold": 0.5},
    ),
    "equal distributions, threshold 0": case(P, [1], 0, threshold=0.0),
    "a match": case(APART, [0, 0], 2),
    "cut at the first": Case([P], [1, 1, 1], 1, draft=[Q, APART, Q]),
    "nothing proposed": case(Q, [], 0),
}


def test_decisions():
    assert_table(DivergenceRule, CASES)


weights = st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda w: sum(w) > 0.1)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(weights, weights)
def test_distances_are_scipys(one, other):
    p, q = (torch.tensor(w, dtype=torch.float64) / sum(w) for w in (one, other))
    want = {
        "js": jensenshannon(p, q) ** 2,
        "kl": entropy(p, q),
        "tv": (p - q).abs().sum().item() / 2,
    }
    for kind, value in want.items():
        got = divergence(p, q, kind).item()
        assert got == pytest.approx(0.0 if math.isnan(value) else value, abs=1e-7), kind


def test_a_round_without_proposals_has_no_distributions():
    scores = scores_of(Case([P], [], 0))
    assert scores.draft_probs is None
    assert DivergenceRule().accept(scores).accepted.shape == (1, 0)


def test_guards():
    assert_guarded(DivergenceRule(), case(Q, [1], 1))


def test_settings():
    rule = DivergenceRule()
    assert (rule.divergence, rule.threshold, rule.required_followers) == ("js", 0.1, 1)
    assert [DivergenceRule(threshold=t).is_lossless for t in (0.0, 0.1)] == [True, False]
    with pytest.raises(ConfigError, match="drafter 'ngram' has none to give"):
        FLyConfig(acceptance="divergence", drafter="ngram")
