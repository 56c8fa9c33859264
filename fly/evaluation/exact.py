"""The exact test of a recovery's margin for paired 0/1 scores.

Score tests are normal only with many discordant items: with 88 solved items of which none was lost
they call a recovery of 97 % cleared, wrongly in 7 % of all cases.  Here the chance of a score
(Nam and Blackwelder's) at least as good is summed over all outcomes, given the items that either
solved, and maximised over the unknown share of lost ones within its own interval (Berger and Boos,
JASA 1994).  It never rejects too often, however few items there are.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from fly.evaluation.binary import Floats, PairCounts, ratio_score

OUTSIDE = 1e-6  # chance that the lost share lies outside its interval: added to every p
NEGLIGIBLE = 1e-12  # chance of outcomes that are counted as reached without looking
TIE = 1e-9  # scores as close as this are the same
GRID_STEP = 0.25  # in standard deviations of the lost share
REFINEMENTS = 9  # points between the best of the grid and its neighbours
RATIO_STEPS = 40  # of bisection, in the logarithm


def p_ratio_at_most(counts: PairCounts, ratio: float) -> float:
    """The p value of "the method solves at most `ratio` times what the target does"."""
    return p_at_most(counts.lost, counts.gained, counts.num_either, ratio)


def p_ratio_at_least(counts: PairCounts, ratio: float) -> float:
    """The p value of "the method solves at least `ratio` times what the target does": the same
    with the roles exchanged.
    """
    return p_ratio_at_most(counts.exchanged, 1 / ratio)


def p_at_most(lost: int, gained: int, num_either: int, ratio: float) -> float:
    """`p_ratio_at_most` from counts.

    On the boundary p_method = ratio * p_target one share is unknown: with q lost, 1 - (1 - q) /
    ratio is gained.  Below the boundary a good score is rarer still than at the same q (or at the
    boundary's end), since it rises with every item that is gained rather than kept or lost.
    """
    if num_either == 0:
        return 1.0
    grid = _lost_shares(lost, num_either, ratio)
    if grid.size == 0:
        return OUTSIDE  # so few are lost as no recovery up to `ratio` explains
    score = float(ratio_score(lost, gained, num_either, ratio))
    outcomes = _least_gains(score, grid, num_either, ratio)
    chances = _chances(*outcomes, grid, num_either, ratio)
    best = int(chances.argmax())
    around = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], REFINEMENTS)
    refined = _chances(*outcomes, around, num_either, ratio)
    return min(1.0, float(max(chances.max(), refined.max())) + OUTSIDE)


def lower_ratio(counts: PairCounts, confidence: float) -> float:
    """The one-sided lower bound of the recovery: the ratio at which p is 1 - confidence."""
    if counts.num_method == 0:
        return 0.0
    low, high = -20.0, 20.0
    for _ in range(RATIO_STEPS):
        middle = (low + high) / 2
        is_rejected = p_ratio_at_most(counts, float(np.exp(middle))) < 1 - confidence
        low, high = (middle, high) if is_rejected else (low, middle)
    return float(np.exp(low))


def _lost_shares(lost: int, num_either: int, ratio: float) -> Floats:
    """The shares to try, among items that either solved; even in the arcsine of their root, where
    the spread is the same everywhere.
    """
    tail = OUTSIDE / 2
    low = stats.beta.ppf(tail, lost, num_either - lost + 1) if lost else 0.0
    high = stats.beta.isf(tail, lost + 1, num_either - lost) if lost < num_either else 1.0
    most = 1 / (1 + ratio)  # the boundary's end: nothing is kept, all is lost or gained
    if high < 1 - ratio:
        return np.empty(0)
    low, high = min(max(low, 1 - ratio), most), min(high, most)
    first, last = (float(np.arcsin(np.sqrt(end))) for end in (low, high))
    steps = int(np.ceil((last - first) * 2 * np.sqrt(num_either) / GRID_STEP))
    inside = np.sin(np.linspace(first, last, steps + 2)[1:-1]) ** 2
    return np.concatenate([[low], inside, [high]])


def _least_gains(
    score: float, grid: Floats, num_either: int, ratio: float
) -> tuple[Floats, Floats]:
    """For every number of lost items that matters, the fewest gained ones that reach `score`; more
    than there are where none do.
    """
    first = int(stats.binom.ppf(NEGLIGIBLE, num_either, grid[0]))
    last = int(stats.binom.isf(NEGLIGIBLE, num_either, grid[-1]))
    lost = np.arange(max(first - 1, 0), min(last + 1, num_either) + 1)
    low, high = np.zeros_like(lost), num_either - lost + 1
    while np.any(low < high):
        middle = (low + high) // 2
        reaches = ratio_score(lost, middle, num_either, ratio) >= score - TIE
        low = np.where(reaches, low, np.minimum(middle + 1, high))
        high = np.where(reaches, middle, high)
    return lost.astype(float), low.astype(float)


def _chances(
    lost: Floats, least_gains: Floats, grid: Floats, num_either: int, ratio: float
) -> Floats:
    """For every lost share of `grid` the chance of an outcome at least as good."""
    share = grid[:, None]
    # Rounding may leave the ends of the grid a hair outside.
    gained = np.clip(1 - (1 - share) / ratio, 0.0, 1.0)
    among_rest = np.clip(gained / np.maximum(1 - share, NEGLIGIBLE), 0.0, 1.0)
    rest = num_either - lost
    # The binomial's upper tail, where it is neither all nor nothing.
    reach = special.betainc(
        np.maximum(least_gains, 1), np.maximum(rest - least_gains, 0) + 1, among_rest
    )
    reach = np.where(least_gains <= 0, 1.0, np.where(least_gains > rest, 0.0, reach))
    weights = stats.binom.pmf(lost, num_either, share)
    chances: Floats = (weights * reach).sum(axis=1) + 2 * NEGLIGIBLE
    return chances
