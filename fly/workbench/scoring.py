"""Scores of answers, by the task's own filters and `process_results`.  An item that was given the
same answers before keeps its score, so methods that agree are not judged by two runs of a program
that may time out once."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from lm_eval.api.metrics import sample_stddev, stderr_for_metric

from fly.errors import ConfigError
from fly.formats.comparison import Score
from fly.harness.patches import replaced
from fly.workbench.metrics import (
    HUNDREDS,
    Aggregation,
    Measure,
    Metric,
    evaluator,
    measure_of,
    named,
)

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

Scores = Mapping[Metric, Any]  # of one item
Doc = int | None
Key = TypeVar("Key")
# Bootstrap iterations for metrics whose standard error has no formula.
_MANY, _FEW = 1000, 100


class Scorer:
    """Scores the items of one task."""

    def __init__(self, task: Task) -> None:
        """Take a task whose requests are built."""
        self._task = task
        self._docs: dict[Doc, list[Instance]] = {}
        for instance in task.instances:
            self._docs.setdefault(instance.doc_id, []).append(instance)
        for instances in self._docs.values():
            instances.sort(key=lambda instance: instance.idx)
        self._known: dict[tuple[Doc, tuple[tuple[str, ...], ...]], Scores] = {}

    def reference(self, doc: Doc) -> str:
        """What the task holds for the right answer."""
        return str(self._task.doc_to_target(self._docs[doc][0].doc))

    def score(self, texts: Mapping[tuple[Doc, int], Sequence[str]]) -> dict[Doc, Scores]:
        """Score every item whose answers are all there.

        Args:
            texts: by document and index of the request: one text per copy.
        """
        answers = {
            doc: tuple(tuple(texts[doc, instance.idx]) for instance in instances)
            for doc, instances in self._docs.items()
            if all((doc, instance.idx) in texts for instance in instances)
        }
        new = {doc: own for doc, own in answers.items() if (doc, own) not in self._known}
        if new:
            self._judge(new)
        return {doc: self._known[doc, own] for doc, own in answers.items()}

    def _judge(self, answers: Mapping[Doc, tuple[tuple[str, ...], ...]]) -> None:
        """As in lm-eval's `evaluate`, on some of the items."""
        chosen = [instance for doc in answers for instance in self._docs[doc]]
        flat = [texts for own in answers.values() for texts in own]
        for instance, texts in zip(chosen, flat, strict=True):
            instance.resps = list(texts)
            instance.filtered_resps = {}
        with replaced(self._task, "_instances", chosen):
            self._task.apply_filters()
        for doc, own in answers.items():
            instances = self._docs[doc]
            found: dict[Metric, Any] = {}
            for filter_name in instances[0].filtered_resps:
                filtered = [instance.filtered_resps[filter_name] for instance in instances]
                metrics = self._task.process_results(instances[0].doc, filtered)
                found |= {(metric, filter_name): value for metric, value in metrics.items()}
            self._known[doc, own] = found

    def metrics(self, scores: Iterable[Scores]) -> list[Metric]:
        """All that items have, in the task's order; an item may lack some, or have none."""
        found = dict.fromkeys(metric for own in scores for metric in own)
        filters = list(dict.fromkeys(filter_name for _, filter_name in found))
        names = list(self._task.aggregation())
        names += [name for name, _ in found if name not in names]
        order = ((name, filter_name) for filter_name in filters for name in names)
        return [metric for metric in order if metric in found]

    def measure(self, metric: Metric) -> Measure:
        """How its values become a score."""
        return measure_of(self._task, metric[0])

    def values(self, scores: Mapping[Key, Scores], metric: Metric) -> dict[Key, Any]:
        """Of the documents that have the metric: numbers where it is a mean, else what its
        aggregation takes.
        """
        found = {doc: own[metric] for doc, own in scores.items() if metric in own}
        if self.measure(metric).is_mean:
            return {
                doc: _number(value) for doc, value in found.items() if _number(value) is not None
            }
        return {doc: value for doc, value in found.items() if value is not None}

    def usable(self, scores: Mapping[Key, Scores]) -> list[Metric]:
        """The metrics that some document has and that make a score, means first."""
        found = [
            metric
            for metric in self.metrics(scores.values())
            if self.measure(metric).is_usable and self.values(scores, metric)
        ]
        return sorted(found, key=lambda metric: not self.measure(metric).is_mean)

    def primary(self, scores: Mapping[Doc, Scores], wanted: str | None) -> Metric | None:
        """The metric that decides: the one that is wanted ("exact_match,strict-match", or
        "exact_match" after the first filter), else the task's first that is a mean over items,
        else its first; None where there is none.

        Raises:
            ConfigError: the task has no such metric, or it makes no score.
        """
        usable = self.usable(scores)
        if wanted is None:
            return usable[0] if usable else None
        for metric in usable:
            if wanted in (metric[0], named(metric)):
                return metric
        raise ConfigError(
            f"task {self._task.config.task!r} has no metric {wanted!r} that makes a score: "
            f"{len(scores)} answers were looked at",
            fix=f"choose one of {', '.join(map(named, usable)) or 'none'}",
        )

    def aggregate(self, values: Sequence[Any], metric: Metric) -> Score:
        """The score of values of a metric and its standard error, as lm-eval reports them."""
        measure = self.measure(metric)
        value = stderr = None
        if values and measure.is_usable:
            value, stderr = _aggregate(measure, values)
        return Score(
            metric=metric[0],
            filter=metric[1],
            value=value,
            stderr=stderr,
            higher_is_better=measure.higher_is_better,
            num_items=len(values),
        )


def _aggregate(measure: Measure, values: Sequence[Any]) -> tuple[float | None, float | None]:
    aggregation = measure.aggregation
    assert aggregation is not None
    try:
        value = _number(aggregation(values))
    except Exception:  # noqa: BLE001  tasks raise whatever they like, and all is decoded by now
        return None, None
    if value is None or len(values) < 2:
        return value, None
    if aggregation in HUNDREDS:
        return value, _error_of_sums(aggregation, values)
    error = stderr_for_metric(metric=aggregation, bootstrap_iters=_MANY)
    try:
        return value, _number(error(values)) if error else None
    except Exception:  # noqa: BLE001  as above: a resample may have no score
        return value, None


def _error_of_sums(aggregation: Aggregation, values: Sequence[Any]) -> float | None:
    """lm-eval's bootstrap of sacrebleu's scores, on the same resamples, which it computes anew."""
    evaluate, draw = evaluator(aggregation, values), random.Random(0)
    places = range(len(values))
    replicates = [
        evaluate(np.array(draw.choices(places, k=len(values)), dtype=np.int64)) for _ in range(_FEW)
    ]
    return _number(sample_stddev(replicates))


def _number(value: Any) -> float | None:
    is_real = isinstance(value, numbers.Real | np.bool_)
    if not is_real or not math.isfinite(value):
        return None  # JSON has no others
    return float(value)
