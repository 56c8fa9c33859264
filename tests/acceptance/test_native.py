"""Native acceptance keeps matches only."""

import pytest

from fly.acceptance import Reason, leading_true
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig
from tests.models import toy_scores

CASES = {  # draft, target, accepted
    "all match": ("abcde", "abcde", 5),
    "first differs": ("xbcde", "abcde", 0),
    "last differs": ("abcdx", "abcde", 4),
    "a match behind the mismatch does not count": ("abxde", "abcde", 2),
    "nothing proposed": ("", "", 0),
    "bonus is no match": ("ab", "abc", 2),
}


@pytest.mark.parametrize(("draft", "target", "accepted"), CASES.values(), ids=CASES)
def test_native_accepts(draft, target, accepted):
    verdict = NativeRule().accept(toy_scores((draft, target, {})))
    assert leading_true(verdict.accepted).tolist() == [accepted]
    assert not verdict.loose.any()
    assert not verdict.windowed.any()


def test_an_unsure_target_changes_nothing():
    scores = toy_scores(("axcdefgh", "abcdefgh", {1: 1.0}))
    assert leading_true(NativeRule().accept(scores).accepted).tolist() == [1]


def test_mixed_lengths_in_one_batch():
    cases = [(draft, target, {}) for draft, target, _ in CASES.values()]
    verdict = NativeRule().accept(toy_scores(*cases))
    assert leading_true(verdict.accepted).tolist() == [n for *_, n in CASES.values()]


def test_reasons():
    verdict = NativeRule().accept(toy_scores(("axc", "abc", {}), width=5))
    match, strict, outside = Reason.MATCH, Reason.STRICT, Reason.OUTSIDE
    assert verdict.reason.tolist() == [[match, strict, match, outside, outside]]


def test_nothing_to_look_ahead_for():
    assert FLyConfig(acceptance="native").setup.rule == NativeRule()
    assert NativeRule().required_followers == 0
