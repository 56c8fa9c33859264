"""A method's scores against the target's on the same items: exact methods where scores are 0 or 1
and no document repeats, the clustered bootstrap elsewhere.

Recovery is method by target; where lower is better it is target by method, so that it always says
how much of the target's quality is kept.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fly.evaluation import binary, exact, graded
from fly.evaluation.binary import Floats, PairCounts, count_pairs
from fly.evaluation.graded import Clusters, cluster, effective_number
from fly.formats.comparison import Paired
from fly.formats.model import Interval

POWER = 0.80  # chance of a verdict with as many items as are said to be needed
CONFIDENCE = 0.95  # of one-sided bounds


@dataclass(frozen=True)
class PairedScores:
    """Scores of both, ready to be judged; `compare_scores` makes them."""

    num_items: int
    gained: int  # items scored better than by the target
    lost: int
    counts: PairCounts | None  # of ones; None where scores are graded or documents repeat
    data: Clusters
    higher_is_better: bool

    @property
    def mean(self) -> float:
        """Of the target's scores."""
        return float(self.data.target.sum()) / self.num_items

    @property
    def recovery(self) -> Interval:
        """How much of the target's quality is kept."""
        if self._counts is not None:
            return binary.ratio_interval(self._counts)
        return graded.ratio_interval(self._data)

    def p_safe(self, margin: float) -> float:
        """The p value of "the recovery is at most the margin"; 1 where that cannot be told."""
        if self._counts is not None:
            return exact.p_ratio_at_most(self._counts, margin)
        return self._data.p_ratio_at_most(margin)

    def p_not_safe(self, margin: float) -> float:
        """The p value of "the recovery is at least the margin"; 1 where that cannot be told."""
        if self._counts is not None:
            return exact.p_ratio_at_least(self._counts, margin)
        return self._data.p_ratio_at_least(margin)

    def lower_bound(self, confidence: float = CONFIDENCE) -> float | None:
        """One-sided, of the recovery: the margin at which `p_safe` is 1 - confidence, so it clears
        just those margins that the test rejects.
        """
        if self._counts is not None:
            return exact.lower_ratio(self._counts, confidence)
        return self._data.lower_ratio(confidence)

    def upper_bound(self, confidence: float = CONFIDENCE) -> float | None:
        """The same from above; None where there is none."""
        if self._counts is not None:
            low: float | None = exact.lower_ratio(self._counts.exchanged, confidence)
        else:
            low = self._data.exchanged.lower_ratio(confidence)
        return 1 / low if low else None

    def points_allowed(self, margin: float) -> float | None:
        """What the margin allows to lose, in points (hundredths) of the score."""
        if self.mean <= 0:
            return None
        return 100 * self.mean * (1 - margin if self.higher_is_better else 1 / margin - 1)

    def items_needed(self, margin: float, confidence: float = CONFIDENCE) -> int | None:
        """How many items would show SAFE if nothing is truly lost and as many differ as did."""
        points = self.points_allowed(margin)
        if points is None or self._data.why_no_ratio:
            return None
        return max(
            items_to_decide(self.discordance, points / 100, confidence),
            self.items_at_least(margin, confidence),
        )

    def items_at_least(self, margin: float, confidence: float = CONFIDENCE) -> int:
        """Below this even a method that loses nothing is not SAFE: with so many items it would show
        no loss by chance too often.
        """
        effective = effective_number(self._data.target)
        documents = math.log(1 - confidence) / math.log(margin)
        return math.ceil(documents * self.num_items / effective)

    def items_at_observed(self, margin: float, confidence: float = CONFIDENCE) -> int | None:
        """How many items would decide if the observed recovery is the true one."""
        data = self._data
        if data.why_no_ratio or data.ratio == margin:
            return None
        rest = data.method - margin * data.target
        reach = abs(float(rest.sum())) / self.num_items
        return items_to_decide(self._per_item((rest - rest.mean()) ** 2), reach, confidence)

    @property
    def discordance(self) -> float:
        """The share of discordant items, for graded scores the mean square of what differs.  Where
        nothing differs, as if one item did: none seen is not none to come.
        """
        return self._per_item((self.data.method - self.data.target) ** 2) or 1 / self.num_items

    def to_paired(self) -> Paired:
        """For the comparison's file; the difference is method minus target, whatever is better."""
        if self.counts is not None:
            mcnemar_p = binary.mcnemar_p(self.counts.lost, self.counts.gained)
            difference = binary.difference_interval(self.counts)
        else:
            mcnemar_p, difference = None, graded.difference_interval(self.data)
        return Paired(
            num_items=self.num_items,
            gained=self.gained,
            lost=self.lost,
            mcnemar_p=mcnemar_p,
            difference=difference,
            recovery=self.recovery,
        )

    def _per_item(self, squares: Floats) -> float:
        """What one item adds to a mean's variance, from squares of sums over documents [C]."""
        return float(squares.sum()) / self.num_items

    @property
    def _data(self) -> Clusters:
        """With what the recovery divides by in the target's place."""
        return self.data if self.higher_is_better else self.data.exchanged

    @property
    def _counts(self) -> PairCounts | None:
        if self.counts is None or self.higher_is_better:
            return self.counts
        return self.counts.exchanged


def compare_scores(
    target: Sequence[float],
    method: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    higher_is_better: bool = True,
) -> PairedScores:
    """Pair two lists of scores, item by item; `clusters` names the document of each.

    Raises:
        ValueError: there are no items, the lists differ in length, or a score is not finite.
    """
    if not len(target) == len(method) == len(clusters) or len(target) == 0:
        sizes = f"{len(target)}, {len(method)} and {len(clusters)}"
        raise ValueError(f"scores must be paired, at least one; got {sizes}")
    own, other = np.asarray(target, dtype=float), np.asarray(method, dtype=float)
    if not (np.isfinite(own).all() and np.isfinite(other).all()):
        raise ValueError("a score is not a finite number")
    is_binary = bool(np.isin(np.concatenate([own, other]), (0, 1)).all())
    better, worse = int((other > own).sum()), int((other < own).sum())
    return PairedScores(
        num_items=len(own),
        gained=better if higher_is_better else worse,
        lost=worse if higher_is_better else better,
        counts=count_pairs(own, other) if is_binary and _are_distinct(clusters) else None,
        data=cluster(own, other, clusters),
        higher_is_better=higher_is_better,
    )


def items_to_decide(
    discordance: float, points: float, confidence: float = CONFIDENCE, power: float = POWER
) -> int:
    """Items for a one-sided bound to clear, with chance `power`, a margin that lies `points` (here
    in units of the score) off the truth, where each adds `discordance` to the variance.
    """
    z = float(stats.norm.ppf(confidence) + stats.norm.ppf(power))
    return math.ceil(z**2 * discordance / points**2)


def _are_distinct(clusters: Sequence[Hashable]) -> bool:
    return len(set(clusters)) == len(clusters)
