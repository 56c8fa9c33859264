"""Exact tests of a margin for paired 0/1 scores, of ratio and difference.  The probability of a
score at least as good is summed over all outcomes.  It is maximised over the unknown share of lost
items (Hsueh, Liu and Chen, Biometrics 2001), within that share's own interval (Berger and Boos,
JASA 1994)."""

# Score tests are normal only with many discordant items: with 88 solved items of which none was
# lost they call a recovery of 97 % cleared, wrongly in 7 % of all cases.  The scores here are Nam
# and Blackwelder's for the ratio, given the items that either solved, and Tango's for the
# difference, over all items.  The test never rejects too often, however few items there are.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from scipy import special, stats

from fly.stats.binary import Floats, PairCounts, difference_score, ratio_score
from fly.stats.judged import Side

OUTSIDE = 1e-6  # probability that the lost share lies outside its interval: added to every p
NEGLIGIBLE = 1e-12  # probability of outcomes that are counted as reached without looking
TIE = 1e-9  # scores as close as this are the same
GRID_STEP = 0.25  # in standard deviations of the lost share
REFINEMENTS = 9  # points between the best of the grid and its neighbours
STEPS = 40  # of bisection


@dataclass(frozen=True)
class Boundary:
    """The end of the hypothesis: of `num_items` a share is lost, which is unknown, and another
    gained, which follows from it.

    Short of the boundary a good score is rarer still than at the same lost share, or at the
    boundary's end: the score rises with every item that is gained rather than kept or lost.
    """

    num_items: int
    score: Callable[[Any, Any], Floats]  # of the numbers lost and gained
    gained: Callable[[Floats], Floats]  # share, of the share lost
    least: float  # lost share
    most: float  # there nothing is kept: all is lost or gained


def of_ratio(num_either: int, ratio: float) -> Boundary:
    """p_method = ratio * p_target: with q lost, 1 - (1 - q) / ratio is gained."""
    return Boundary(
        num_either,
        lambda lost, gained: ratio_score(lost, gained, num_either, ratio),
        lambda lost: 1 - (1 - lost) / ratio,
        max(0.0, 1 - ratio),
        1 / (1 + ratio),
    )


def of_difference(num_items: int, difference: float) -> Boundary:
    """p_method = p_target + difference: with q lost, q + difference is gained."""
    return Boundary(
        num_items,
        lambda lost, gained: difference_score(lost, gained, num_items, difference),
        lambda lost: lost + difference,
        max(0.0, -difference),
        (1 - difference) / 2,
    )


def p_ratio_at_most(counts: PairCounts, ratio: float) -> float:
    """The p value of "the method solves at most `ratio` times what the target does"."""
    return p_at_most(counts.lost, counts.gained, of_ratio(counts.num_either, ratio))


def p_ratio_at_least(counts: PairCounts, ratio: float) -> float:
    """The p value of "the method solves at least `ratio` times what the target does": the same
    with the roles exchanged.
    """
    return p_ratio_at_most(counts.exchanged, 1 / ratio)


def p_difference_at_most(counts: PairCounts, difference: float) -> float:
    """The p value of "the share that the method solves is at most `difference` above the target's";
    1 where no such share exists.
    """
    if difference >= 1:
        return 1.0
    return p_at_most(counts.lost, counts.gained, of_difference(counts.num_items, difference))


@dataclass(frozen=True)
class ExactSide(Side):
    """Counts of solved items."""

    counts: PairCounts

    @cached_property
    def exchanged(self) -> ExactSide:
        return ExactSide(self.counts.exchanged)

    def p_ratio_at_most(self, ratio: float) -> float:
        return p_ratio_at_most(self.counts, ratio)

    def p_difference_at_most(self, difference: float) -> float:
        return p_difference_at_most(self.counts, difference)

    def lower_ratio(self, confidence: float) -> float:
        return lower_ratio(self.counts, confidence)

    def lower_difference(self, confidence: float) -> float:
        return lower_difference(self.counts, confidence)


def p_at_most(lost: int, gained: int, boundary: Boundary) -> float:
    """The p value of all that lies at the boundary or short of it."""
    if boundary.num_items == 0:
        return 1.0
    grid = _lost_shares(lost, boundary)
    if grid.size == 0:
        return OUTSIDE  # so few are lost as nothing up to the boundary explains
    outcomes = _least_gains(float(boundary.score(lost, gained)), grid, boundary)
    chances = _chances(*outcomes, grid, boundary)
    best = int(chances.argmax())
    around = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], REFINEMENTS)
    refined = _chances(*outcomes, around, boundary)
    return min(1.0, float(max(chances.max(), refined.max())) + OUTSIDE)


def lower_ratio(counts: PairCounts, confidence: float) -> float:
    """The one-sided lower bound of the recovery: the ratio at which p is 1 - confidence."""
    if counts.num_method == 0:
        return 0.0
    low = _last_rejected(
        lambda at: p_ratio_at_most(counts, float(np.exp(at))), -20.0, 20.0, confidence
    )
    return float(np.exp(low))


def lower_difference(counts: PairCounts, confidence: float) -> float:
    """The one-sided lower bound of the difference, found alike."""
    return _last_rejected(lambda at: p_difference_at_most(counts, at), -1.0, 1.0, confidence)


def _last_rejected(
    p_at_most: Callable[[float], float], low: float, high: float, confidence: float
) -> float:
    for _ in range(STEPS):
        middle = (low + high) / 2
        is_rejected = p_at_most(middle) < 1 - confidence
        low, high = (middle, high) if is_rejected else (low, middle)
    return low


@cache
def solved_needed(ratio: float, confidence: float) -> int:
    """The fewest items that the target has to solve if a method that loses none of them is to be
    shown to solve more than `ratio` times as many.
    """
    return _first_rejected(lambda count: of_ratio(count, ratio), 1 - ratio, confidence)


@cache
def items_needed(loss: float, confidence: float) -> int:
    """The fewest items with which a method that loses none can be shown to lose less than `loss`,
    a share of all items.
    """
    return _first_rejected(lambda count: of_difference(count, -loss), loss, confidence)


def _first_rejected(boundary: Callable[[int], Boundary], loss: float, confidence: float) -> int:
    """From where chance alone would show no loss often enough."""
    if loss >= 1:
        return 1
    count = max(1, int(np.log(1 - confidence) / np.log1p(-loss)))
    while p_at_most(0, 0, boundary(count)) >= 1 - confidence:
        count += 1
    return count


def _lost_shares(lost: int, boundary: Boundary) -> Floats:
    """The shares to try; even in the arcsine of their root, where the spread is the same
    everywhere.
    """
    tail, count = OUTSIDE / 2, boundary.num_items
    low = stats.beta.ppf(tail, lost, count - lost + 1) if lost else 0.0
    high = stats.beta.isf(tail, lost + 1, count - lost) if lost < count else 1.0
    if high < boundary.least:
        return np.empty(0)
    low, high = min(max(low, boundary.least), boundary.most), min(high, boundary.most)
    first, last = (float(np.arcsin(np.sqrt(end))) for end in (low, high))
    steps = int(np.ceil((last - first) * 2 * np.sqrt(count) / GRID_STEP))
    inside = np.sin(np.linspace(first, last, steps + 2)[1:-1]) ** 2
    return np.concatenate([[low], inside, [high]])


def _least_gains(score: float, grid: Floats, boundary: Boundary) -> tuple[Floats, Floats]:
    """For every number of lost items that matters, the fewest gained ones that reach `score`; more
    than there are where none do.
    """
    count = boundary.num_items
    first = int(stats.binom.ppf(NEGLIGIBLE, count, grid[0]))
    last = int(stats.binom.isf(NEGLIGIBLE, count, grid[-1]))
    lost = np.arange(max(first - 1, 0), min(last + 1, count) + 1)
    low, high = np.zeros_like(lost), count - lost + 1
    while np.any(low < high):
        middle = (low + high) // 2
        reaches = boundary.score(lost, middle) >= score - TIE
        low = np.where(reaches, low, np.minimum(middle + 1, high))
        high = np.where(reaches, middle, high)
    return lost.astype(float), low.astype(float)


def _chances(lost: Floats, least_gains: Floats, grid: Floats, boundary: Boundary) -> Floats:
    """For every lost share of `grid` the probability of an outcome at least as good."""
    share = grid[:, None]
    # Rounding may leave the ends of the grid a hair outside.
    gained = np.clip(boundary.gained(share), 0.0, 1.0)
    among_rest = np.clip(gained / np.maximum(1 - share, NEGLIGIBLE), 0.0, 1.0)
    rest = boundary.num_items - lost
    # The binomial's upper tail, where it is neither all nor nothing.
    reach = special.betainc(
        np.maximum(least_gains, 1), np.maximum(rest - least_gains, 0) + 1, among_rest
    )
    reach = np.where(least_gains <= 0, 1.0, np.where(least_gains > rest, 0.0, reach))
    weights = stats.binom.pmf(lost, boundary.num_items, share)
    chances: Floats = (weights * reach).sum(axis=1) + 2 * NEGLIGIBLE
    return chances
