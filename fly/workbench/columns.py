"""One metric of a task by method, on the documents that all methods have.  Its scores, and each
method's beside the target's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fly.formats.comparison import Score
from fly.stats.corpus import CorpusScores, Resampling, Values, plan_resampling
from fly.stats.judged import Judged
from fly.stats.paired import compare_scores
from fly.workbench.metrics import Measure, Metric, evaluator, named
from fly.workbench.scoring import Doc, Scorer, Scores


@dataclass(frozen=True)
class MetricColumn:
    """Values of all methods over `docs`; the target's are the first."""

    metric: Metric
    scorer: Scorer
    docs: Sequence[Doc]
    clusters: Sequence[str]  # of `docs`: what identifies repeated documents
    values: Mapping[str, Sequence[Any]]  # by method
    missing: Mapping[str, int]  # documents without it, by method
    num_asked: int  # documents in all

    @property
    def name(self) -> str:
        """As lm-eval's results have it."""
        return named(self.metric)

    @property
    def measure(self) -> Measure:
        """How the values become a score."""
        return self.scorer.measure(self.metric)

    def score(self, method: str) -> Score:
        """A method's."""
        if method not in self._scores:
            self._scores[method] = self.scorer.aggregate(self.values[method], self.metric)
        return self._scores[method]

    def items(self, method: str) -> dict[Doc, float]:
        """A method's score of every document; none where only all together have one."""
        if not self.measure.is_mean:
            return {}
        return dict(zip(self.docs, map(float, self.values[method]), strict=True))

    def pair(self, method: str) -> Judged | None:
        """A method's scores beside the target's; None where there is nothing to compare."""
        if method == self._target or not self.docs:
            return None
        if method not in self._pairs:
            self._pairs[method] = self._compare(method)
        return self._pairs[method]

    def constant(self, method: str) -> float | None:
        """The one value that all items have, by the target and by the method; None where they
        differ, or are no numbers.
        """
        if not self.measure.is_mean:
            return None
        found = {float(v) for name in (self._target, method) for v in self.values[name]}
        return found.pop() if len(found) == 1 else None

    @property
    def told_missing(self) -> str | None:
        """How many documents are left out, and by whose answers; None where none are."""
        left_out = self.num_asked - len(self.docs)
        if not left_out:
            return None
        counts = ", ".join(f"{name} {count:,}" for name, count in self.missing.items() if count)
        return (
            f"{left_out:,} of {self.num_asked:,} documents have no {self.name} ({counts}); those "
            f"compared are the {len(self.docs):,} that have it by all methods"
        )

    def _compare(self, method: str) -> Judged | None:
        measure = self.measure
        if measure.is_mean:
            return compare_scores(
                self.values[self._target],
                self.values[method],
                self.clusters,
                higher_is_better=measure.higher_is_better,
                point=measure.point,
            )
        target, own = self._resampled(self._target), self._resampled(method)
        if not (math.isfinite(target.whole) and math.isfinite(own.whole)):
            return None
        return CorpusScores(
            num_items=len(self.docs),
            target=target,
            method=own,
            resampling=self._resampling,
            higher_is_better=measure.higher_is_better,
            point=measure.point,
        )

    def _resampled(self, method: str) -> Values:
        if method not in self._drawn:
            self._drawn[method] = self._resampling.values(self._evaluate(method))
        return self._drawn[method]

    def _evaluate(self, method: str) -> Any:
        assert self.measure.aggregation is not None
        return evaluator(self.measure.aggregation, self.values[method])

    @cached_property
    def _resampling(self) -> Resampling:
        return plan_resampling(self.clusters, self._evaluate(self._target))

    @cached_property
    def _scores(self) -> dict[str, Score]:
        return {}

    @cached_property
    def _pairs(self) -> dict[str, Judged | None]:
        return {}

    @cached_property
    def _drawn(self) -> dict[str, Values]:
        return {}

    @property
    def _target(self) -> str:
        return next(iter(self.values))


def columns(
    scorer: Scorer, scores: Mapping[str, Mapping[Doc, Scores]], clusters: Mapping[Doc, str]
) -> list[MetricColumn]:
    """All metrics that some method has, means first.

    Args:
        scorer: the task's.
        scores: by method, the target's first, and document.
        clusters: what identifies repeated documents, by document asked.
    """
    pooled = {(name, doc): own for name, by_doc in scores.items() for doc, own in by_doc.items()}
    found = []
    for metric in scorer.usable(pooled):
        by_method = {name: scorer.values(own, metric) for name, own in scores.items()}
        docs = [doc for doc in clusters if all(doc in own for own in by_method.values())]
        found.append(
            MetricColumn(
                metric=metric,
                scorer=scorer,
                docs=docs,
                clusters=[clusters[doc] for doc in docs],
                values={name: [own[doc] for doc in docs] for name, own in by_method.items()},
                missing={name: len(clusters) - len(own) for name, own in by_method.items()},
                num_asked=len(clusters),
            )
        )
    return found


def pointer(column: MetricColumn, others: Sequence[MetricColumn], method: str) -> str | None:
    """Where the column shows nothing of a method, since all items have the same score by it and by
    the target: another that does.
    """
    value = column.constant(method)
    if value is None:
        return None
    text = f"{column.name} is {value:g} on every item by both"
    other = next(
        (
            each
            for each in others
            if each.measure.is_mean and each.docs and each.constant(method) is None
        ),
        None,
    )
    if other is None:
        return f"{text}."
    return f"{text}; {other.name} is not: --metric {other.name} lets that decide."
