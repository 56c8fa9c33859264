"""Relaxed acceptance: among N, and not more than delta below the first; both hold at equality."""

from fly.acceptance.relaxed_top_n import RelaxedTopNRule
from tests.acceptance.tables import Case, assert_guarded, assert_table

P = [0.5, 0.25, 0.125, 0.125]


def case(ids, count, **settings):
    return Case([P], ids, count, settings=settings)


CASES = {
    "by default any of ten, 0.6 below": case([3], 1),
    "delta at equality": case([1], 1, delta=0.25),
    "delta just short": case([1], 0, delta=0.2499),
    "third of two": case([2], 0, top_n=2, delta=1.0),
    "second of two": case([1], 1, top_n=2, delta=1.0),
    "ties of the last one count": case([3], 1, top_n=3, delta=1.0),
    "top 1 and delta 0 are native": case([1], 0, top_n=1, delta=0.0),
    "a match": case([0, 0], 2, top_n=1, delta=0.0),
    "more than there are tokens": case([3], 1, top_n=99),
    "no probability": Case([[0.5, 0.5, 0.0, 0.0]], [2], 0, settings={"delta": 1.0}),
    "a sure target": Case([[0.9, 0.1, 0.0, 0.0]], [1], 0),
    "cut at the first": Case([P, [0.9, 0.1, 0.0, 0.0], P], [1, 1, 1], 1),
    "nothing proposed": case([], 0),
}


def test_decisions():
    assert_table(RelaxedTopNRule, CASES)


def test_guards():
    assert_guarded(RelaxedTopNRule(), case([1], 1))


def test_defaults_are_those_recommended():
    rule = RelaxedTopNRule()
    assert (rule.top_n, rule.delta, rule.required_followers) == (10, 0.6, 1)
    assert not RelaxedTopNRule(top_n=1, delta=0.0).is_lossless
