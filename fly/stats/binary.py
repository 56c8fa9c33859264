"""Paired 0/1 scores, with McNemar's test and intervals.  Tango's is of the difference (Statistics
in Medicine 1998), Nam and Blackwelder's of the ratio (ibid. 2002).  Bounds are found by bisection
and take arrays of counts; the exact test of a margin is in `exact.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fly.stats.records import Interval

Floats = NDArray[np.float64]

CONFIDENCE = 0.95  # two-sided, of intervals
STEPS = 80  # of bisection: the bracket ends below the last bit
LOG_RATIO_MAX = 25.0  # ratios are sought within e^-25 and e^25


@dataclass(frozen=True)
class PairCounts:
    """Items by who solved them."""

    both: int
    lost: int  # by the target only
    gained: int  # by the method only
    neither: int

    @property
    def num_items(self) -> int:
        """All of them."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def num_either(self) -> int:
        """Those that at least one of both solved: only they bear on the ratio."""
        return self.both + self.lost + self.gained

    @property
    def num_target(self) -> int:
        """Solved by the target."""
        return self.both + self.lost

    @property
    def num_method(self) -> int:
        """Solved by the method."""
        return self.both + self.gained

    @property
    def exchanged(self) -> PairCounts:
        """The method in the target's place."""
        return PairCounts(self.both, lost=self.gained, gained=self.lost, neither=self.neither)


def count_pairs(target: ArrayLike, method: ArrayLike) -> PairCounts:
    """The 2x2 table of scores that are 0 or 1."""
    own, other = np.asarray(target) > 0, np.asarray(method) > 0
    cells = (own & other, own & ~other, ~own & other, ~own & ~other)
    return PairCounts(*(int(cell.sum()) for cell in cells))


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided p of "as many are lost as gained"; 1 where nothing differs."""
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def difference_score(lost: Any, gained: Any, num_items: Any, difference: Any) -> Floats:
    """Tango's statistic, falling in `difference` (method minus target, within -1 and 1); normal
    where that difference is true.  Its variance has the lost share of greatest likelihood.
    """
    lost, gained, n = (np.asarray(part, dtype=float) for part in (lost, gained, num_items))
    slope = lost + gained - (2 * n + lost - gained) * difference
    spread = difference * (1 - difference)
    share = (slope + np.sqrt(np.maximum(slope**2 + 8 * n * lost * spread, 0.0))) / (4 * n)
    share = np.maximum(share, np.maximum(0, -difference))  # rounding: both shares stay above 0
    variance = n * (2 * share + spread)
    return _by_root(gained - lost - n * difference, variance)


def ratio_score(lost: Any, gained: Any, num_either: Any, ratio: Any) -> Floats:
    """Nam and Blackwelder's statistic, falling in `ratio` (method by target); normal where that
    ratio is true.  Given the items that either solved, those that neither did cancel out.
    """
    lost, gained, m = (np.asarray(part, dtype=float) for part in (lost, gained, num_either))
    # The likelihood's maximum under p_method = ratio * p_target.  The lost share q solves
    # (1 + r) m q^2 - (l + r^2 g + (1 - r^2) m) q + (1 - r) l = 0; the greater root is within
    # bounds.  The statistic's variance is (1 + r) m q - (1 - r) m.
    tilt = (1 - ratio**2) * m
    half = lost + ratio**2 * gained + tilt
    below = (lost - tilt) ** 2 + ratio**4 * gained**2 + 2 * ratio**2 * gained * (lost + tilt)
    root = np.sqrt(np.maximum(below, 0.0))
    variance = (half + root) / 2 - (1 - ratio) * m
    return _by_root((m - lost) - ratio * (m - gained), variance)


def difference_bounds(
    lost: ArrayLike, gained: ArrayLike, num_items: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Tango's two-sided interval, elementwise."""
    one, other, total = np.broadcast_arrays(lost, gained, num_items)
    z = float(stats.norm.isf((1 - confidence) / 2))
    low, high = (
        _falling_root(
            lambda at: difference_score(one, other, total, at), aim, -1.0, 1.0, total.shape
        )
        for aim in (z, -z)
    )
    return low, high


def ratio_bounds(
    lost: ArrayLike, gained: ArrayLike, num_either: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Nam and Blackwelder's two-sided interval, elementwise: (0, inf) where nobody solved any, 0
    below where the method solved none, inf above where the target solved none.
    """
    one, other, total = np.broadcast_arrays(lost, gained, num_either)
    z = float(stats.norm.isf((1 - confidence) / 2))
    low, high = (
        np.exp(
            _falling_root(
                lambda at: ratio_score(one, other, total, np.exp(at)),
                aim,
                -LOG_RATIO_MAX,
                LOG_RATIO_MAX,
                total.shape,
            )
        )
        for aim in (z, -z)
    )
    return np.where(total == one, 0.0, low), np.where(total == other, np.inf, high)


def difference_interval(counts: PairCounts, confidence: float = CONFIDENCE) -> Interval:
    """Of the share solved, method minus target."""
    low, high = difference_bounds(counts.lost, counts.gained, counts.num_items, confidence)
    estimate = (counts.gained - counts.lost) / counts.num_items
    return Interval(
        estimate=estimate,
        low=min(float(low), estimate),
        high=max(float(high), estimate),
        method="Tango score interval",
    )


def ratio_interval(counts: PairCounts, confidence: float = CONFIDENCE) -> Interval:
    """Of the share solved, method by target; None above where the target solved nothing."""
    if counts.num_either == 0:
        return Interval(estimate=None, low=None, high=None, method="no item was solved by either")
    bounds = ratio_bounds(counts.lost, counts.gained, counts.num_either, confidence)
    low, high = (float(bound) for bound in bounds)
    if counts.num_target == 0:
        method = "Nam-Blackwelder score interval; the target solved no item"
        return Interval(estimate=None, low=low, high=None, method=method)
    estimate = counts.num_method / counts.num_target
    return Interval(
        estimate=estimate,
        low=min(low, estimate),
        high=max(high, estimate),
        method="Nam-Blackwelder score interval",
    )


def _by_root(excess: Floats, variance: Floats) -> Floats:
    """`excess` by its standard deviation; 0 / 0 is 0, anything else by 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = excess / np.sqrt(np.maximum(variance, 0.0))
    return np.where(excess == 0, 0.0, score)


def _falling_root(
    curve: Callable[[Floats], Floats], aim: float, low: float, high: float, shape: tuple[int, ...]
) -> Floats:
    """Where the falling `curve` crosses `aim`; an end of the bracket where it does not."""
    lows, highs = np.full(shape, low), np.full(shape, high)
    for _ in range(STEPS):
        middle = (lows + highs) / 2
        is_above = curve(middle) > aim
        lows, highs = np.where(is_above, middle, lows), np.where(is_above, highs, middle)
    root: Floats = (lows + highs) / 2
    return root
