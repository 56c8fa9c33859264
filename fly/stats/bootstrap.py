"""The BCa bootstrap over clusters, of any statistic of sums.  It is bias-corrected and accelerated
(Efron, JASA 1987).  Percentiles are widened as Student's t widens the normal's (Hesterberg, The
American Statistician 2015), which matters with few clusters and hardly with many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # sums [..., k] to values [...]

RESAMPLES = 10_000
SEED = 20_220_511  # any; fixed, so that a comparison computed twice gives the same
CHUNK_CELLS = 2_000_000  # weights held at once: 16 MB
ROUNDING = 1e-12  # relative: closer values are equal
STRETCH_MIN = 0.05  # of the accelerated scale, whose far ends fold over


@dataclass(frozen=True)
class Bootstrap:
    """A statistic's replicates, and what maps a level to their percentile."""

    estimate: float
    replicates: Floats  # [R], sorted
    bias: float  # median bias, in normal units
    influence: Floats  # [C] of each cluster, by the jackknife
    num_observed: int  # leading clusters; the rest were made up

    @cached_property
    def acceleration(self) -> float:
        """A sixth of the skewness."""
        spread = float((self.influence**2).sum())
        return float((self.influence**3).sum()) / (6 * spread**1.5) if spread else 0.0

    @cached_property
    def error(self) -> float:
        """The standard error, by the jackknife."""
        count = len(self.influence)
        return float(np.sqrt((count - 1) / count * (self.influence**2).sum()))

    @cached_property
    def degrees(self) -> float:
        """Of freedom of the spread (Satterthwaite): one less than there are clusters if these are
        alike, fewer where a few make up most of it, as a few changed answers among many do.
        """
        observed = self.influence[: self.num_observed]
        spread = float((observed**2).sum())
        if not spread:
            return self.num_observed - 1
        kurtosis = self.num_observed * float((observed**4).sum()) / spread**2
        alike = 2 * self.num_observed / max(kurtosis - 1, ROUNDING)
        return min(self.num_observed - 1, max(1.0, alike))

    def bound(self, level: float) -> float:
        """The end of the one-sided interval that holds the truth from below with probability
        1 - level (small levels: a lower bound; large ones: an upper bound).
        """
        z = self.bias + self._student_to_normal(level)
        share = stats.norm.cdf(self.bias + z / max(1 - self.acceleration * z, STRETCH_MIN))
        last = len(self.replicates) - 1
        place = share * last
        bound = float(self.replicates[int(np.floor(place) if level < 0.5 else np.ceil(place))])
        reach = self.estimate + float(stats.t.ppf(level, self.degrees)) * self.error
        if place < 1:
            return min(bound, reach)
        return max(bound, reach) if place > last - 1 else bound

    def p_at_most(self, value: float) -> float:
        """The p value of "the truth is at most `value`": the level whose bound is `value`."""
        reached = np.searchsorted(self.replicates, value + ROUNDING * abs(value), side="right")
        p = self._p(stats.norm.ppf(self._share(int(reached))))
        return self._beyond(p, self.estimate - value) if reached == 0 else p

    def _beyond(self, p: float, distance: float) -> float:
        """Where no replicate reached, their number alone bounds p; Student's gives how far off."""
        if not self.error:
            return p
        student = float(stats.t.sf(distance / self.error, self.degrees))
        return min(p, max(student, 1 / (len(self.replicates) + 1)))

    def _share(self, count: int) -> float:
        """With one added to both, so that no finite number of replicates claims certainty."""
        return min((count + 1) / (len(self.replicates) + 1), 1 - 1 / (len(self.replicates) + 1))

    def _p(self, normal: float) -> float:
        y = normal - self.bias
        z = y / max(1 + self.acceleration * y, STRETCH_MIN) - self.bias
        p = float(stats.t.cdf(z / self._widening, self.degrees))
        return max(p, 1 / (len(self.replicates) + 1))

    def _student_to_normal(self, level: float) -> float:
        return float(stats.t.ppf(level, self.degrees)) * self._widening

    @property
    def _widening(self) -> float:
        """The bootstrap's variance divides by C, the sample's by C - 1."""
        return float(np.sqrt(len(self.influence) / (len(self.influence) - 1)))


def bootstrap(
    sums: Floats, redrawn: Floats, statistic: Statistic, *, num_made_up: int = 0
) -> Bootstrap:
    """A statistic of `sums` [C, k], what each of at least two clusters adds to every sum, with its
    replicates from `redrawn` [R, k], which `redraw` made.  The last `num_made_up` clusters show
    nothing of the spread.

    Replicates that are not a number (0 / 0) take no side: they count as the estimate.
    """
    total = sums.sum(axis=0)
    estimate, left_out = float(statistic(total)), statistic(total - sums)
    return from_replicates(estimate, statistic(redrawn), left_out, num_made_up=num_made_up)


def from_replicates(
    estimate: float, replicates: Floats, left_out: Floats, *, num_made_up: int = 0
) -> Bootstrap:
    """The same from values: of the data, of its resamples [R], and without each cluster [C]."""
    replicates = np.sort(np.where(np.isnan(replicates), estimate, replicates))
    tie = ROUNDING * max(abs(estimate), 1.0)
    below = float(np.mean(replicates < estimate - tie))
    not_above = float(np.mean(replicates <= estimate + tie))
    edge = 1 / (len(replicates) + 1)
    bias = float(stats.norm.ppf(np.clip((below + not_above) / 2, edge, 1 - edge)))
    influence = left_out.mean() - left_out
    if not np.isfinite(influence).all() or np.abs(influence).max() <= tie:
        influence = np.zeros(len(left_out))
    return Bootstrap(estimate, replicates, bias, influence, len(left_out) - num_made_up)


def redraw(sums: Floats, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """The sums [R, k] of as many clusters as there are, drawn again from `sums` [C, k]."""
    return np.concatenate([weights @ sums for weights in _weights(len(sums), resamples, seed)])


def _weights(num_clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each cluster is drawn, in chunks [r, C]."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, CHUNK_CELLS // num_clusters))
    for start in range(0, resamples, rows):
        num_rows = min(rows, resamples - start)
        drawn = generator.integers(num_clusters, size=(num_rows, num_clusters))
        drawn += num_clusters * np.arange(num_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_clusters)
        yield counts.reshape(num_rows, num_clusters).astype(float)
