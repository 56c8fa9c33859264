"""Paired scores of whole corpora (BLEU, TER, F1 and the like).  Documents are drawn again, both
methods' items are aggregated anew, and the replicates give BCa intervals and tests (paired
bootstrap: Koehn, EMNLP 2004; BCa: Efron, JASA 1987, its influences from groups of documents left
out)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fly.stats.bootstrap import SEED, Bootstrap, Floats, from_replicates
from fly.stats.graded import JOINING, TAIL
from fly.stats.judged import Judged, Side
from fly.stats.records import POINT, Interval, Paired

RESAMPLES = 2_000
FEWEST = 100  # however long one takes
SECONDS = 600.0  # that one method's resamples may take
GROUPS = 100  # of documents, left out one after the other

Places = NDArray[np.int64]
Evaluate = Callable[[Places], float]  # the score of the items at these places


@dataclass(frozen=True)
class Values:
    """One method's score: of all items, and of the same parts and resamples for all methods."""

    whole: float
    replicates: Floats  # [R]
    left_out: Floats  # [G]


@dataclass(frozen=True)
class Resampling:
    """Plan of how often documents are drawn again, and which items each brings."""

    documents: Sequence[Places]  # [C] of the items of each
    num_resamples: int = RESAMPLES
    seconds: float | None = None  # that all would take, where that is too long

    def draws(self) -> Iterator[Places]:
        """The items of as many documents as there are, the same at every call."""
        generator, count = np.random.default_rng(SEED), len(self.documents)
        for _ in range(self.num_resamples):
            drawn = generator.integers(count, size=count).tolist()
            yield np.concatenate([self.documents[place] for place in drawn])

    def parts(self) -> Iterator[Places]:
        """All items but those of one group of documents after the other."""
        groups = np.array_split(np.arange(len(self.documents)), min(GROUPS, len(self.documents)))
        for group in groups:
            kept = np.delete(np.arange(len(self.documents)), group)
            if kept.size:
                yield np.concatenate([self.documents[place] for place in kept.tolist()])

    def values(self, evaluate: Evaluate) -> Values:
        """A method's."""
        everything = np.concatenate(list(self.documents))
        return Values(
            evaluate(everything),
            np.array([evaluate(places) for places in self.draws()]),
            np.array([evaluate(places) for places in self.parts()]),
        )

    @property
    def told(self) -> str:
        """For an interval's `method`."""
        cut = ""
        if self.seconds is not None:
            cut = f" ({RESAMPLES:,} would take {self.seconds / 60:,.0f} minutes)"
        count = len(self.documents)
        return f"BCa bootstrap over {count:,} documents, {self.num_resamples:,} resamples{cut}"


def plan_resampling(clusters: Sequence[Hashable], evaluate: Evaluate) -> Resampling:
    """`clusters` names the document of each item.  How many resamples there is time for is measured
    on the target's score.
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(clusters):
        places.setdefault(key, []).append(place)
    documents = [np.array(own, dtype=np.int64) for own in places.values()]
    begin = time.perf_counter()
    evaluate(np.arange(len(clusters)))
    cost = time.perf_counter() - begin
    if cost * RESAMPLES <= SECONDS:
        return Resampling(documents)
    return Resampling(documents, max(FEWEST, int(SECONDS / cost)), cost * RESAMPLES)


@dataclass(frozen=True)
class Sides(Side):
    """The score kept, `method` by or less `target`; all bounds are lower ones."""

    target: Values
    method: Values
    num_documents: int

    @cached_property
    def exchanged(self) -> Sides:
        """The method in the target's place."""
        return Sides(self.method, self.target, self.num_documents)

    @property
    def why_no_ratio(self) -> str | None:
        if min(self.target.whole, self.method.whole) < 0:
            return "scores below zero have no ratio"
        return None if self.target.whole else "the target's score is zero"

    @cached_property
    def _shrunk(self) -> tuple[float, Floats]:
        """What is left of a score where half a document that loses all is drawn as often as any."""
        count = self.num_documents
        times = np.random.default_rng(SEED).binomial(
            count + 1, 1 / (count + 1), size=len(self.target.replicates)
        )
        return 1 / (1 + JOINING / count), 1 / (1 + JOINING * times / count)

    @cached_property
    def ratios(self) -> Bootstrap:
        """Of the ratio."""
        whole, replicates = self._shrunk
        with np.errstate(divide="ignore", invalid="ignore"):
            return from_replicates(
                whole * self.method.whole / self.target.whole,
                replicates * self.method.replicates / self.target.replicates,
                self.method.left_out / self.target.left_out,
            )

    @cached_property
    def differences(self) -> Bootstrap:
        """Of the difference."""
        whole, replicates = self._shrunk
        return from_replicates(
            whole * self.method.whole - self.target.whole,
            replicates * self.method.replicates - self.target.replicates,
            self.method.left_out - self.target.left_out,
        )

    @property
    def ratio(self) -> float:
        """Of the scores."""
        return self.method.whole / self.target.whole

    @property
    def difference(self) -> float:
        """Of the scores."""
        return self.method.whole - self.target.whole

    def p_ratio_at_most(self, ratio: float) -> float:
        if self.why_no_ratio or self.num_documents < 2 or self.ratio <= 0:
            return 1.0
        unseen: float = min(1.0, ratio / self.ratio) ** self.num_documents
        return max(self.ratios.p_at_most(ratio), unseen)

    def p_difference_at_most(self, difference: float) -> float:
        if self.num_documents < 2:
            return 1.0
        unseen = 0.0
        if self.target.whole:
            share = (self.difference - difference) / abs(self.target.whole)
            unseen = (1 - min(max(share, 0.0), 1.0)) ** self.num_documents
        return max(self.differences.p_at_most(difference), unseen)

    def p_ratio_at_least(self, ratio: float) -> float:
        if self.why_no_ratio is None and self.method.whole == 0:
            return float((1 - min(ratio, 1.0)) ** self.num_documents)
        return self.exchanged.p_ratio_at_most(1 / ratio)

    def lower_ratio(self, confidence: float) -> float | None:
        return self.ratio_bound(1 - confidence)

    def lower_difference(self, confidence: float) -> float | None:
        return self.difference_bound(1 - confidence)

    def ratio_bound(self, level: float) -> float | None:
        """The ratio at which p is `level`."""
        if self.why_no_ratio or self.num_documents < 2:
            return None
        unseen: float = self.ratio * level ** (1 / self.num_documents)
        return max(0.0, min(self.ratios.bound(level), unseen))

    def difference_bound(self, level: float) -> float | None:
        """The difference at which p is `level`."""
        if self.num_documents < 2:
            return None
        share: float = 1 - level ** (1 / self.num_documents)
        unseen = self.difference - share * abs(self.target.whole)
        return min(self.differences.bound(level), unseen)


@dataclass(frozen=True)
class CorpusScores(Judged):
    """Scores of both; `num_items` of all documents.

    As with graded scores, half a document that loses all joins the data; here it shrinks the score
    by its share.  And no bound is nearer than what zero of m seen would allow.
    """

    num_items: int
    target: Values
    method: Values
    resampling: Resampling
    higher_is_better: bool
    point: float = POINT

    @property
    def mean(self) -> float:
        """The target's score."""
        return self.target.whole

    @property
    def recovery(self) -> Interval:
        side = self.side
        if side.why_no_ratio:
            return Interval(estimate=None, low=None, high=None, method=side.why_no_ratio)
        low, above = side.ratio_bound(TAIL), side.exchanged.ratio_bound(TAIL)
        return self._interval(side.ratio, low, 1 / above if above else None)

    @property
    def why_no_ratio(self) -> str | None:
        return self.side.why_no_ratio

    @property
    def weight(self) -> float:
        """As in Judged: documents count alike."""
        return float(len(self.resampling.documents))

    @property
    def weight_told(self) -> None:
        """As in Judged: no single item is solved."""
        return None

    def weight_needed(self, ratio: float, confidence: float) -> int:
        return math.ceil(math.log(1 - confidence) / math.log(ratio))

    def items_to_see(self, loss: float, confidence: float) -> int:
        whole = abs(self.side.target.whole)
        if loss >= whole:
            return 1
        documents = math.log(1 - confidence) / math.log1p(-loss / whole)
        return math.ceil(documents * self.num_items / self.weight)

    @property
    def discordance(self) -> float:
        """As in Judged; where nothing differs, as if one document were lost."""
        found = self.spread(1.0)[1]
        return found or self.target.whole**2 / self.num_items

    def spread(self, slope: float) -> tuple[float, float]:
        side = self.side
        parts = side.method.left_out - slope * side.target.left_out
        count = len(parts)
        variance = (
            (count - 1) / count * float(((parts - parts.mean()) ** 2).sum()) if count else 0.0
        )
        return side.method.whole - slope * side.target.whole, variance * self.num_items

    def to_paired(self) -> Paired:
        side = Sides(self.target, self.method, len(self.resampling.documents))
        low, above = side.difference_bound(TAIL), side.exchanged.difference_bound(TAIL)
        return Paired(
            num_items=self.num_items,
            gained=None,
            lost=None,
            mcnemar_p=None,
            difference=self._interval(side.difference, low, None if above is None else -above),
            recovery=self.recovery,
        )

    def _interval(self, estimate: float, low: float | None, high: float | None) -> Interval:
        if low is None:
            return Interval(
                estimate=estimate, low=None, high=None, method="one document has no interval"
            )
        return Interval(
            estimate=estimate,
            low=min(low, estimate),
            high=None if high is None or not math.isfinite(high) else max(high, estimate),
            method=self.resampling.told,
        )

    @cached_property
    def side(self) -> Sides:
        sides = Sides(self.target, self.method, len(self.resampling.documents))
        return sides if self.higher_is_better else sides.exchanged
