"""Cascade, token form: a share of the largest probability, which equality reaches."""

from fly.acceptance.cascade import CascadeRule
from tests.acceptance.tables import Case, assert_guarded, assert_table

P = [0.5, 0.25, 0.125, 0.125]


def case(ids, count, **settings):
    return Case([P], ids, count, settings=settings)


CASES = {
    "by default 0.8 of the largest": Case([[0.5, 0.41, 0.09, 0.0]], [1], 1),
    "by default not less": Case([[0.5, 0.39, 0.11, 0.0]], [1], 0),
    "equality is kept": case([1], 1, alpha=0.5),
    "just short": case([1], 0, alpha=0.4999),
    "a quarter": case([3], 1, alpha=0.75),
    "alpha 0 is native": case([1], 0, alpha=0.0),
    "but for ties": Case([[0.5, 0.5, 0.0, 0.0]], [1], 1, settings={"alpha": 0.0}),
    "no probability": Case([[0.5, 0.5, 0.0, 0.0]], [2], 0, settings={"alpha": 0.99}),
    "a match": case([0, 0], 2, alpha=0.0),
    "cut at the first": Case([P, P, P], [1, 3, 1], 1, settings={"alpha": 0.5}),
    "nothing proposed": case([], 0),
}


def test_decisions():
    assert_table(CascadeRule, CASES)


def test_guards():
    assert_guarded(CascadeRule(alpha=0.5), case([1], 1))


def test_settings():
    assert (CascadeRule().alpha, CascadeRule().required_followers) == (0.2, 1)
    assert not CascadeRule(alpha=0.0).is_lossless
