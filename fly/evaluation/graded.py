"""Paired graded scores, or 0/1 ones whose documents repeat: bootstrap intervals and tests of the
mean difference and the ratio of means, clustered by document.

A bootstrap only redraws what it saw.  Where no document was lost it would call it impossible; so a
side never seen is given the bound that zero of m allow: a share of 1 - p^(1/m) may still be lost.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fly.evaluation.bootstrap import Bootstrap, Floats, bootstrap, redraw
from fly.formats.model import Interval

TAIL = 0.025  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Clusters:
    """Sums over the items of each document, all [C]."""

    target: Floats
    method: Floats
    num_items: Floats

    @property
    def exchanged(self) -> Clusters:
        """The method in the target's place."""
        return Clusters(self.method, self.target, self.num_items)

    @property
    def why_no_ratio(self) -> str | None:
        """What keeps a ratio of means from saying anything; None where it does."""
        if min(self.target.min(), self.method.min()) < 0:
            return "scores below zero have no ratio"
        return None if self.target.any() else "the target's mean score is zero"

    @cached_property
    def ratios(self) -> Bootstrap:
        """Of the mean scores, method by target."""
        return bootstrap(self._sums, self._redrawn, _ratio)

    @cached_property
    def differences(self) -> Bootstrap:
        """Of the mean scores, method minus target."""
        return bootstrap(self._sums, self._redrawn, _difference)

    def unseen_loss(self, tail: float) -> float:
        """The share of the target's score that may be lost though no document lost any, with chance
        `tail`; 0 where some did.  Documents count by what they weigh.
        """
        if np.any(self.method < self.target) or not self.target.any():
            return 0.0
        return float(1 - tail ** (1 / _effective(self.target)))

    def p_ratio_at_most(self, ratio: float) -> float:
        """The p value of "the method scores at most `ratio` times what the target does"; 1 where
        that cannot be told.
        """
        if self.why_no_ratio or len(self.target) < 2:
            return 1.0
        p = self.ratios.p_at_most(ratio)
        if np.any(self.method < self.target):
            return p
        return max(p, min(ratio, 1.0) ** _effective(self.target))

    def p_ratio_at_least(self, ratio: float) -> float:
        """The p value of "the method scores at least `ratio` times what the target does"."""
        if self.why_no_ratio or len(self.target) < 2:
            return 1.0
        p = self.ratios.p_at_least(ratio)
        if np.any(self.method > self.target) or not self.method.any():
            return p
        return max(p, min(1 / ratio, 1.0) ** _effective(self.method))

    def lower_ratio(self, confidence: float) -> float | None:
        """The one-sided lower bound of the ratio: where p is 1 - confidence."""
        if self.why_no_ratio or len(self.target) < 2:
            return None
        low = self.ratios.bound(1 - confidence)
        return min(low, 1 - self.unseen_loss(1 - confidence)) if np.isfinite(low) else None

    @cached_property
    def _sums(self) -> Floats:
        return np.stack([self.target, self.method, self.num_items], axis=1)

    @cached_property
    def _redrawn(self) -> Floats:
        return redraw(self._sums)


def cluster(
    target: Sequence[float], method: Sequence[float], clusters: Sequence[Hashable]
) -> Clusters:
    """Add up the items of each document."""
    places = {key: place for place, key in enumerate(dict.fromkeys(clusters))}
    index = np.array([places[key] for key in clusters])
    columns = (np.asarray(part, dtype=float) for part in (target, method, np.ones(len(index))))
    return Clusters(*(np.bincount(index, weights=part) for part in columns))


def difference_interval(data: Clusters) -> Interval:
    """Of the mean score, method minus target."""
    num_items = float(data.num_items.sum())
    estimate = float(data.method.sum() - data.target.sum()) / num_items
    if len(data.target) < 2:
        return one_document(estimate)
    unseen = (
        -data.unseen_loss(TAIL) * abs(float(data.target.sum())) / num_items,
        data.exchanged.unseen_loss(TAIL) * abs(float(data.method.sum())) / num_items,
    )
    return _interval(data.differences, unseen, nothing=0.0)


def ratio_interval(data: Clusters) -> Interval:
    """Of the mean score, method by target; None where that is no number."""
    if data.why_no_ratio:
        return Interval(estimate=None, low=None, high=None, method=data.why_no_ratio)
    if len(data.target) < 2:
        return one_document(float(data.method.sum() / data.target.sum()))
    unseen = (1 - data.unseen_loss(TAIL), 1 / (1 - data.exchanged.unseen_loss(TAIL)))
    return _interval(data.ratios, unseen, nothing=1.0)


def one_document(estimate: float) -> Interval:
    """A point, for want of anything to resample."""
    return Interval(estimate=estimate, low=None, high=None, method="one document has no interval")


def _interval(found: Bootstrap, unseen: tuple[float, float], nothing: float) -> Interval:
    """The bootstrap's, out to the bounds of what was not seen where those are not `nothing`."""
    low, high = found.bound(TAIL), found.bound(1 - TAIL)
    low = min(low, found.estimate, unseen[0] if unseen[0] != nothing else low)
    high = max(high, found.estimate, unseen[1] if unseen[1] != nothing else high)
    return Interval(
        estimate=found.estimate,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        method=f"BCa bootstrap over {len(found.influence)} documents",
    )


def _effective(weights: Floats) -> float:
    """How many equal documents say as much as these."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _difference(sums: Floats) -> Floats:
    target, method, num_items = np.moveaxis(sums, -1, 0)
    difference: Floats = (method - target) / num_items
    return difference


def _ratio(sums: Floats) -> Floats:
    target, method, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = method / target
    return ratio
