"""Scores of answers: the task's own filters and `process_results`, item by item.

An item that was given the same answers before keeps its score, so methods that agree are not
judged by two runs of a program that may time out once.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.metrics import mean, stderr_for_metric

from fly.backend.replacing import replaced
from fly.errors import ConfigError
from fly.formats.comparison import Score

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

Metric = tuple[str, str]  # name and filter, as in lm-eval's "exact_match,strict-match"
Scores = Mapping[Metric, Any]  # of one item
Doc = int | None
# Bootstrap iterations for metrics whose standard error has no formula.
_MANY, _FEW = 1000, 100
_SLOW = ("bleu", "chrf", "chrf++", "ter")


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

    def primary(self, scores: Mapping[Doc, Scores], wanted: str | None) -> Metric | None:
        """The metric that decides: the one that is wanted ("exact_match" or
        "exact_match,strict-match"), else the task's first that is a mean over items; None where
        there is none.

        Raises:
            ConfigError: the task has no such metric, or it is no mean over items.
        """
        metrics = list(next(iter(scores.values())))
        usable = [metric for metric in metrics if self._is_mean(metric, scores)]
        if wanted is None:
            return usable[0] if usable else None
        for metric in usable:
            if wanted in (metric[0], ",".join(metric)):
                return metric
        raise ConfigError(
            f"task {self._task.config.task!r} has no metric {wanted!r} that is a mean over items",
            fix=f"choose one of {', '.join(','.join(metric) for metric in usable) or 'none'}",
        )

    def _is_mean(self, metric: Metric, scores: Mapping[Doc, Scores]) -> bool:
        values = [own[metric] for own in scores.values() if metric in own]
        return (
            len(values) == len(scores)
            and all(_number(value) is not None for value in values)
            and self._task.aggregation().get(metric[0], mean) is mean
        )

    def check_metric(self, wanted: str | None) -> None:
        """Make sure that the task has the metric, from the score of an empty answer.

        Raises:
            ConfigError: see `primary`.
        """
        if wanted is None:
            return
        doc, instances = next(iter(self._docs.items()))
        empty = {(doc, instance.idx): [""] * (instance.repeats or 1) for instance in instances}
        self.primary(self.score(empty), wanted)

    def aggregate(self, scores: Mapping[Doc, Scores], metric: Metric) -> Score:
        """The task's score and its standard error, as lm-eval reports them."""
        values = [own[metric] for own in scores.values() if metric in own]
        aggregation = self._task.aggregation().get(metric[0], mean)
        value = aggregation(values) if values else None
        iterations = _FEW if metric[0] in _SLOW else _MANY
        error = stderr_for_metric(metric=aggregation, bootstrap_iters=iterations)
        stderr = error(values) if error and len(values) > 1 else None
        return Score(
            metric=metric[0],
            filter=metric[1],
            value=_number(value),
            stderr=_number(stderr),
            higher_is_better=bool(self._task.higher_is_better().get(metric[0], True)),
        )


def _number(value: Any) -> float | None:
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        return None  # JSON has no others
    return float(value)
