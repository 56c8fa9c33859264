"""Paired 0/1 scores against published tables, scipy, statsmodels and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats import proportion
from statsmodels.stats.contingency_tables import mcnemar

from fly.stats.binary import (
    PairCounts,
    count_pairs,
    difference_interval,
    difference_score,
    mcnemar_p,
    ratio_interval,
    ratio_score,
)

# both, lost, gained, neither; those of Fagerland, Lydersen and Laake (2014) and their book, whose
# first row is gained: airway hyper-responsiveness (Bentur 2009), complete response (Cavo 2012).
AIRWAYS = PairCounts(1, lost=7, gained=1, neither=12)
RESPONSE = PairCounts(59, lost=16, gained=6, neither=80)
TABLES = [
    AIRWAYS,
    RESPONSE,
    PairCounts(80, lost=3, gained=1, neither=16),
    PairCounts(500, lost=0, gained=0, neither=50),
    PairCounts(10, lost=4, gained=4, neither=0),
    PairCounts(0, lost=5, gained=2, neither=3),
    PairCounts(600, lost=40, gained=0, neither=110),
]
Z = stats.norm.isf(0.025)
tables = st.builds(PairCounts, *(st.integers(0, 400) for _ in range(4))).filter(
    lambda table: table.num_either > 0
)


@pytest.mark.parametrize(
    ("table", "difference", "ratio"),
    [(AIRWAYS, (-0.517, -0.026), (0.065, 0.907)), (RESPONSE, (-0.1240, -0.0054), (0.7476, 0.9876))],
)
def test_published_intervals(table, difference, ratio):
    ours = difference_interval(table)
    assert (ours.low, ours.high) == pytest.approx(difference, abs=6e-4)
    ours = ratio_interval(table)
    assert (ours.low, ours.high) == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize("table", TABLES)
def test_ratio_is_statsmodels(table):
    cells = [table.both, table.gained, table.lost, table.neither]
    theirs = proportion._confint_riskratio_paired_nam(cells).confint
    ours = ratio_interval(table)
    # Theirs solves a quartic, whose double roots are good to half the digits.
    assert (ours.low, ours.high) == pytest.approx(np.real(theirs), rel=1e-6)


@pytest.mark.parametrize("table", TABLES)
def test_mcnemar_is_statsmodels(table):
    cells = [[table.both, table.lost], [table.gained, table.neither]]
    if table.lost + table.gained:
        theirs = mcnemar(cells, exact=True).pvalue
        assert mcnemar_p(table.lost, table.gained) == pytest.approx(min(theirs, 1))
    else:
        assert mcnemar_p(table.lost, table.gained) == 1


def score_by_hand(table, curve, excess, under_null, slopes):
    """A score statistic with the multinomial's likelihood maximised by a general optimiser along
    `curve`, which gives the cells' shares for a lost share; `slopes` are what an item of each cell
    adds to the excess, whose mean is `under_null` per item.
    """
    cells = np.array([table.both, table.lost, table.gained, table.neither], dtype=float)

    def cost(lost):
        shares = np.array(curve(lost))
        if shares.min() < 0:
            return 1e9
        return -float(cells[cells > 0] @ np.log(np.maximum(shares[cells > 0], 1e-300)))

    grid = np.linspace(0, 1, 4001)
    start = grid[np.argmin([cost(lost) for lost in grid])]
    ends = (max(start - 1 / 4000, 0), min(start + 1 / 4000, 1))
    best = optimize.minimize_scalar(cost, bounds=ends, options={"xatol": 1e-12}).x
    square = np.square(slopes) @ np.array(curve(best))
    return excess / np.sqrt(table.num_items * (square - under_null**2))


@pytest.mark.parametrize("table", [AIRWAYS, RESPONSE, TABLES[2], TABLES[4]])
@pytest.mark.parametrize("difference", [-0.3, -0.02, 0.1])
def test_difference_score_by_hand(table, difference):
    """With the likelihood maximised under p_gained - p_lost = difference."""
    n, seen = table.num_items, table.gained - table.lost
    rest = table.both + table.neither

    def curve(lost):
        gained = lost + difference
        kept = 1 - lost - gained
        return table.both / rest * kept, lost, gained, table.neither / rest * kept

    want = score_by_hand(table, curve, seen - n * difference, difference, (0, -1, 1, 0))
    got = difference_score(table.lost, table.gained, n, difference)
    assert got == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("table", [AIRWAYS, RESPONSE, TABLES[2]])
@pytest.mark.parametrize("ratio", [0.5, 0.97, 1.2])
def test_ratio_score_by_hand(table, ratio):
    """With the likelihood maximised under p_method = ratio * p_target."""
    either = table.num_either / table.num_items

    def curve(lost):  # as shares of all items; those that neither solved keep theirs
        gained = either - (either - lost) / ratio
        return either - lost - gained, lost, gained, 1 - either

    excess = table.num_method - ratio * table.num_target
    want = score_by_hand(table, curve, excess, 0.0, (1 - ratio, -ratio, 1, 0))
    got = ratio_score(table.lost, table.gained, table.num_either, ratio)
    assert got == pytest.approx(want, rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(tables)
def test_bounds_are_where_the_score_is(table):
    ours = difference_interval(table)
    for bound, score in ((ours.low, Z), (ours.high, -Z)):
        at = difference_score(table.lost, table.gained, table.num_items, bound)
        assert at == pytest.approx(score, abs=1e-4) or abs(bound) > 1 - 1e-9
    assert -1 <= ours.low <= ours.estimate <= ours.high <= 1


@settings(max_examples=50, deadline=None)
@given(tables)
def test_exchanged_sides(table):
    """Differences change their sign, ratios turn over."""
    here, there = difference_interval(table), difference_interval(table.exchanged)
    assert (here.low, here.high) == pytest.approx((-there.high, -there.low), abs=1e-9)
    here, there = ratio_interval(table), ratio_interval(table.exchanged)
    for one, other in ((here.low, there.high), (there.low, here.high)):
        if other is None:
            assert one == 0
        elif other > 1e-6:
            assert one == pytest.approx(1 / other, rel=1e-6) or one > 1e6


@settings(max_examples=50, deadline=None)
@given(tables.filter(lambda table: table.both > 0))
def test_more_lost_is_worse(table):
    worse = PairCounts(table.both - 1, table.lost + 1, table.gained, table.neither)
    for interval in (difference_interval, ratio_interval):
        here, there = interval(table), interval(worse)
        assert there.estimate < here.estimate
        assert there.low <= here.low
        assert there.high <= here.high
        assert here.low <= here.estimate <= here.high


def test_nothing_differs():
    table = PairCounts(90, lost=0, gained=0, neither=10)
    ours = difference_interval(table)
    # The score's root without discordant items is z^2 / (n + z^2).
    want = Z**2 / (100 + Z**2)
    assert (ours.low, ours.estimate, ours.high) == pytest.approx((-want, 0, want), abs=1e-9)
    ours = ratio_interval(table)
    assert ours.low * ours.high == pytest.approx(1)
    assert ours.low < ours.estimate == 1


@pytest.mark.parametrize(
    ("table", "bounds"),
    [
        (PairCounts(0, 0, 0, 9), (None, None, None)),
        (PairCounts(0, 5, 0, 4), (0, 0, pytest.approx(Z**2 / 5))),
        (PairCounts(0, 0, 5, 4), (pytest.approx(5 / Z**2), None, None)),
    ],
)
def test_where_there_is_no_ratio(table, bounds):
    ours = ratio_interval(table)
    assert (ours.low, ours.estimate, ours.high) == bounds


def test_counting():
    assert count_pairs([1, 1, 0, 0, 1], [1, 0, 1, 0, 0.0]) == PairCounts(1, 2, 1, 1)
