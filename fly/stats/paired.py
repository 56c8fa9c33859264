"""A method's scores against the target's on the same items.  Exact methods where scores are 0 or 1
and no document repeats, the clustered bootstrap elsewhere.  Recovery is method by target; where
lower is better it is target by method, so that it always means how much of the target's quality is
kept."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fly.stats import binary, exact, graded
from fly.stats.binary import Floats, PairCounts, count_pairs
from fly.stats.graded import Clusters, cluster, effective_number
from fly.stats.judged import Judged, Side
from fly.stats.records import POINT, Interval, Paired


@dataclass(frozen=True)
class PairedScores(Judged):
    """Scores of both, item by item; `compare_scores` makes them."""

    num_items: int
    gained: int  # items scored better than by the target
    lost: int
    counts: PairCounts | None  # of ones; None where scores are graded or documents repeat
    data: Clusters
    higher_is_better: bool
    point: float = POINT

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

    @property
    def why_no_ratio(self) -> str | None:
        return self._data.why_no_ratio

    @cached_property
    def side(self) -> Side:
        return self._data if self._counts is None else exact.ExactSide(self._counts)

    @property
    def weight(self) -> float:
        """As in Judged; of 0/1 scores the number of solved items."""
        return effective_number(self._data.target)

    @property
    def weight_told(self) -> str:
        if self.counts is not None and self.higher_is_better:
            return f"The target solves {self.counts.num_target:,} of {self.num_items:,} items"
        return f"Scores are worth {self.weight:,.1f} solved ones among {self.num_items:,} items"

    def weight_needed(self, ratio: float, confidence: float) -> int:
        if self._counts is not None:
            return exact.solved_needed(ratio, confidence)
        return math.ceil(math.log(1 - confidence) / math.log(ratio))

    def items_to_see(self, loss: float, confidence: float) -> int:
        if self._counts is not None:
            return exact.items_needed(loss, confidence)
        mean = abs(float(self._data.target.sum())) / self.num_items
        if loss >= mean:
            return 1
        documents = math.log(1 - confidence) / math.log1p(-loss / mean)
        return math.ceil(documents * self.num_items / self.weight)

    @property
    def discordance(self) -> float:
        """The share of discordant items, for graded scores the mean square of what differs.  Where
        nothing differs, as if one item did: none seen is not none to come.
        """
        return self._per_item((self.data.method - self.data.target) ** 2) or 1 / self.num_items

    @property
    def share_told(self) -> str:
        return "" if self.counts is None else f" ({100 * self.discordance:.1f} % of items)"

    def spread(self, slope: float) -> tuple[float, float]:
        rest = self._data.method - slope * self._data.target
        return float(rest.sum()) / self.num_items, self._per_item((rest - rest.mean()) ** 2)

    def to_paired(self) -> Paired:
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
    point: float = POINT,
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
        point=point,
    )


def _are_distinct(clusters: Sequence[Hashable]) -> bool:
    return len(set(clusters)) == len(clusters)
