"""A look at the target's first answers, before the long run.  It settles which metric of each task
decides, and that there is one.  The answers are stored ones, or decoded for this and given up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fly.errors import ConfigError, FLyWarning
from fly.workbench.engines import Engine
from fly.workbench.methods import Method
from fly.workbench.metrics import Metric, named
from fly.workbench.scoring import Doc, Scorer, Scores
from fly.workbench.store import Store
from fly.workbench.tasks import Asked, Key, Tasks

FIRST = 4  # documents of a task
MOST = 64  # where the first have no score

By = dict[Doc, list[Asked]]  # requests by document


@dataclass
class FirstLook:
    """A first look at the answers of `target`; `wanted` is the metric that was asked for."""

    target: Method
    make: Callable[[Method], Engine]
    store: Store
    wanted: str | None
    _texts: dict[Key, str] = field(default_factory=dict)

    def deciding(self, tasks: Tasks, ready: Sequence[Asked]) -> dict[str, Metric]:
        """The metric that decides, by task.

        Raises:
            ConfigError: a task's first answers have no score that can be compared, or not the one
                that is wanted.
        """
        by_task: dict[str, By] = {}
        for one in ready:
            documents = by_task.setdefault(one.task, {})
            documents.setdefault(one.instance.doc_id, []).append(one)
        scorers = {name: Scorer(tasks.by_name[name]) for name in by_task}
        found: dict[str, Metric] = {}
        count = FIRST
        while len(found) < len(by_task):
            chosen = {name: _spread(by_task[name], count) for name in by_task if name not in found}
            self._decode([one for by in chosen.values() for own in by.values() for one in own])
            for name, documents in chosen.items():
                scores = scorers[name].score(self._by_request(documents))
                is_last = count >= min(MOST, len(by_task[name]))
                metric = self._choose(scorers[name], scores, is_last=is_last)
                if metric is None and is_last:
                    raise _no_metric(name, scorers[name], scores)
                if metric is not None:
                    _check_aggregation(name, scorers[name], scores, metric)
                    found[name] = metric
            count *= 2
        return found

    def _choose(
        self, scorer: Scorer, scores: Mapping[Doc, Scores], *, is_last: bool
    ) -> Metric | None:
        usable = scorer.usable(scores)
        is_there = any(self.wanted in (None, each[0], named(each)) for each in usable)
        if not is_there and not (is_last and usable):
            return None
        return scorer.primary(scores, self.wanted)

    def _decode(self, ready: Sequence[Asked]) -> None:
        """Find the texts of requests that have none yet."""
        kept = self.store.answers.get(self.target.name, {})
        pending = []
        for one in ready:
            key = one.key
            if key in kept:
                self._texts[key] = kept[key].text
            elif key not in self._texts:
                pending.append(one)
        if pending:
            requests = [one.request for one in pending]
            for index, result in self.make(self.target).decode(requests):
                one = pending[index]
                self._texts[one.key] = self.store.answer(self.target, one, result).text

    def _by_request(self, documents: By) -> dict[tuple[Doc, int], list[str]]:
        texts: dict[tuple[Doc, int], list[str]] = {}
        for one in sorted(
            (one for own in documents.values() for one in own), key=lambda one: one.copy
        ):
            key = one.instance.doc_id, one.instance.idx
            texts.setdefault(key, []).append(self._texts[one.key])
        return texts


def _spread(documents: By, count: int) -> By:
    """As many documents, even over all."""
    names = list(documents)
    count = min(count, len(names))
    chosen = [names[len(names) * place // count] for place in range(count)]
    return {name: documents[name] for name in chosen}


def _no_metric(name: str, scorer: Scorer, scores: Mapping[Doc, Scores]) -> ConfigError:
    seen = ", ".join(map(named, scorer.metrics(scores.values())))
    what = f"only {seen}, which is no number" if seen else "its process_results returned nothing"
    return ConfigError(
        f"task {name!r}: none of the target's first {len(scores)} answers has a score: {what}",
        fix="mend the task's process_results, or name another task; nothing was decoded but these",
    )


def _check_aggregation(
    name: str, scorer: Scorer, scores: Mapping[Doc, Scores], metric: Metric
) -> None:
    """Try a function of all items on these few.

    Raises:
        ConfigError: it gives no number.

    Warns:
        FLyWarning: it fails, which on all items it may not.
    """
    measure, values = scorer.measure(metric), list(scorer.values(scores, metric).values())
    if measure.is_mean or measure.aggregation is None:
        return
    try:
        value = measure.aggregation(values)
    except Exception as error:  # noqa: BLE001  tasks raise whatever they like
        warnings.warn(
            f"task {name!r}: the aggregation of {named(metric)} fails on the first {len(values)} "
            f"answers ({type(error).__name__}: {error}); if it does on all, there is no verdict",
            FLyWarning,
            stacklevel=2,
        )
        return
    try:
        float(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"task {name!r}: the aggregation of {named(metric)} gives {value!r:.80}, which is no "
            "number and cannot be compared",
            fix="let another metric decide by --metric, or name another task",
        ) from None
