"""The search of a sweep, on growing parts of the items.  Points share the rounds that they have in
common, and stop when their intervals leave no hope."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fly.config import FLyConfig
from fly.engine import Statistics
from fly.errors import ConfigError
from fly.formats.answers import Answer, Rung
from fly.settings import NO_DRAFTER
from fly.stats.margins import Margin
from fly.stats.paired import PairedScores, compare_scores
from fly.stats.records import Interval
from fly.workbench.blocks import cut, measure, warm_up
from fly.workbench.comparing import Loaded, texts_by_request
from fly.workbench.costs import PriceTable
from fly.workbench.local import share
from fly.workbench.methods import Method
from fly.workbench.metrics import named
from fly.workbench.plan import Plan
from fly.workbench.results import statistics_of
from fly.workbench.scoring import Doc, Scorer
from fly.workbench.store import Store
from fly.workbench.sweeps.grid import GridPoint
from fly.workbench.sweeps.halving import Standing, rungs, stops
from fly.workbench.sweeps.shared import SharedDecoding
from fly.workbench.tasks import Asked, Key

COST = "cost of"  # what methods are called that are decoded to measure rounds

OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class Tried:
    """A point and what it did on the items that it was tried on."""

    point: GridPoint
    answers: Mapping[Key, Answer]
    own: Mapping[Key, Answer]  # the target's
    num_items: int  # answered; scores may lack some
    paired: PairedScores  # all tasks pooled
    by_task: Sequence[PairedScores]
    margin: Margin
    score: float
    speedup: Interval
    stopped: str | None

    @property
    def standing(self) -> Standing:
        """For halving, frontier and recommendation."""
        bounds = [self.margin.upper(paired) for paired in self.by_task]
        uppers = [bound for bound in bounds if bound is not None]
        return Standing(
            name=self.point.name,
            speedup=self.speedup.estimate or 0.0,
            recovery=self.margin.kept(self.paired),
            lower=self.lower,
            upper=min(uppers, default=None),
            is_reference=not self.point.config.setup.is_loose,
        )

    @property
    def lower(self) -> float | None:
        """One-sided bound of what is kept, as the margin has it: the worst task's, as each has to
        clear the margin."""
        bounds = [self.margin.lower(paired) for paired in self.by_task]
        return None if None in bounds else min(bound for bound in bounds if bound is not None)

    @property
    def items_needed(self) -> int | None:
        """Items that would let the point clear the margin on every task if nothing is truly lost;
        the least that could support it, where the target solves too few; None where more would not
        help."""
        needed, margin = [], self.margin
        for paired in self.by_task:
            kept = margin.kept(paired)
            if kept is None or kept < margin.least:
                return None
            is_supported = margin.why_unsupported(paired) is None
            count = (margin.items_needed if is_supported else margin.items_at_least)(paired)
            if count is None:
                return None
            needed.append(count * self.paired.num_items / paired.num_items)
        return math.ceil(max(needed))

    @property
    def statistics(self) -> Statistics:
        """Pooled over its answers."""
        return sum(map(statistics_of, self.answers.values()), Statistics())


@dataclass
class Search:
    """The search over `ready`, which are the requests of its items; finished work is in `store`."""

    plan: Plan
    loaded: Loaded
    ready: Sequence[Asked]
    points: Sequence[GridPoint]
    store: Store
    on_progress: OnProgress
    stopped: dict[str, str] = field(default_factory=dict)  # why, by point

    def __post_init__(self) -> None:
        """Order the items; a part of them is spread over all tasks."""
        self._target = self.plan.methods[0]
        self._scorers = {name: Scorer(task) for name, task in self.loaded.tasks.by_name.items()}
        self._by_item: dict[tuple[str, Doc], list[Asked]] = {}
        for one in sorted(self.ready, key=lambda one: shuffled(one, "order")):
            self._by_item.setdefault(one.key[:2], []).append(one)

    @property
    def num_items(self) -> int:
        """Items of the search."""
        return len(self._by_item)

    def run(self) -> list[Tried]:
        """Try all points; in the order of the grid."""
        items = list(self._by_item)
        sizes = rungs(len(items))
        first = [one for item in items[: sizes[0]] for one in self._by_item[item]]
        costs = self._calibrate(first)
        configs = {point.name: point.config for point in self.points}
        shared = share(self.loaded.lm, configs, self.plan.batch_size)
        for number, size in enumerate(sizes):
            self._rung(number, size, items, shared, costs, is_last=number == len(sizes) - 1)
        return [self._tried(point, costs) for point in self.points]

    def _rung(
        self,
        number: int,
        size: int,
        items: Sequence[tuple[str, Doc]],
        shared: SharedDecoding,
        costs: PriceTable,
        *,
        is_last: bool,
    ) -> None:
        """Try all points that are still in on the first `size` items, and stop some."""
        if number < len(self.store.rungs):
            for name, why in (self.store.rungs[number].stopped or {}).items():
                self.stopped[name] = why
                shared.stop(name)
            return
        ready = [one for item in items[:size] for one in self._by_item[item]]
        self._decode_target(ready)
        by_name = {point.name: point for point in self.points}
        going = [name for name in by_name if name not in self.stopped]
        for name in shared.order(going):
            before = shared.rounds_decoded
            self._decode_point(by_name[name], ready, shared)
            decoded = shared.rounds_decoded - before
            self.store.keep_rung(Rung(rung=number, rounds_decoded=decoded, stopped=None))
        leaving, margin = {}, self.plan.margin
        if not is_last:
            tried = [self._tried(by_name[name], costs).standing for name in going]
            count = len(items[:size])
            leaving = {
                name: f"after {count} items: {why}"
                for name, why in stops(tried, margin.least, margin.quantity).items()
            }
        self.store.keep_rung(Rung(rung=number, rounds_decoded=0, stopped=leaving))
        for name, why in leaving.items():
            self.stopped[name] = why
            shared.stop(name)

    def _decode_target(self, ready: Sequence[Asked]) -> None:
        pending = [one for one in ready if not self.store.has(self._target.name, one.key)]
        engine = self._target.open(self.loaded.lm)
        for index, result in engine.decode([one.request for one in pending]):
            self.store.keep(self._target, pending[index], result)
            self.on_progress(self._target.name, 1)

    def _decode_point(
        self, point: GridPoint, ready: Sequence[Asked], shared: SharedDecoding
    ) -> None:
        method = Method(point.name, point.config, self.plan.batch_size)
        places = {one.key: place for place, one in enumerate(self.ready)}
        pending = [one for one in ready if not self.store.has(point.name, one.key)]
        numbers = [places[one.key] for one in pending]
        requests = [one.request for one in pending]
        for index, result in shared.decode(point.name, requests, numbers):
            self.store.keep(method, self.ready[index], result)
            self.on_progress(point.name, 1)

    def _calibrate(self, ready: Sequence[Asked]) -> PriceTable:
        """Measure what rounds cost: the plain target and, for every drafter and K of the grid, its
        first point, decoded in rotated blocks."""
        methods = {(NO_DRAFTER, 0): self._target}
        for point in self.points:
            key = price_group(point.config), point.config.spd_k
            name = f"{COST} {point.name}"
            method = Method(name, point.config, self.plan.batch_size)
            methods.setdefault(key, method)
        engines = {method.name: method.open(self.loaded.lm) for method in methods.values()}
        asked = [(method, one) for method in methods.values() for one in ready]
        if any(not self.store.has(method.name, one.key) for method, one in asked):
            warm_up(engines, ready)
        slices = cut(ready, self.plan.batch_size)
        measure(list(methods.values()), engines, slices, self.store, self.on_progress)
        counted = {
            key: [statistics_of(self.store.answers[method.name][one.key]) for one in ready]
            for key, method in methods.items()
        }
        drafting: dict[str, dict[int, Sequence[Statistics]]] = {}
        for (drafter, k), statistics in counted.items():
            if drafter != NO_DRAFTER:
                drafting.setdefault(drafter, {})[k] = statistics
        return PriceTable.calibrate(counted[NO_DRAFTER, 0], drafting)

    @property
    def rounds_calibrating(self) -> int:
        """Rounds of single rows that were decoded to measure their cost."""
        answers = [
            answer
            for method, own in self.store.answers.items()
            for answer in own.values()
            if method.startswith(COST)
        ]
        return sum(int(answer.statistics["rounds"]) for answer in answers)

    def _tried(self, point: GridPoint, costs: PriceTable) -> Tried:
        """A point's scores and estimated speed on all items that it has answered."""
        answers = self.store.answers[point.name]
        scores = self._scores(point)
        own, other, clusters = (
            [value for part in column for value in part] for column in zip(*scores, strict=True)
        )
        reference = self.store.answers[self._target.name]
        keys = list(answers)
        documents = {key[:2]: place for place, key in enumerate(dict.fromkeys(k[:2] for k in keys))}
        speedup = costs.speedup(
            price_group(point.config),
            point.config.spd_k,
            [statistics_of(answers[key]) for key in keys],
            [statistics_of(reference[key]) for key in keys],
            [documents[key[:2]] for key in keys],
        )
        return Tried(
            point=point,
            answers=answers,
            own=reference,
            num_items=len(documents),
            paired=compare_scores(own, other, clusters),
            by_task=[compare_scores(*part) for part in scores],
            margin=self.plan.margin,
            score=sum(other) / len(other),
            speedup=speedup,
            stopped=self.stopped.get(point.name),
        )

    def _scores(self, point: GridPoint) -> list[tuple[list[float], list[float], list[str]]]:
        """By task: the target's and the point's score of every item answered by the point, and what
        identifies repeated documents."""
        found = []
        for task, scorer in self._scorers.items():
            columns = []
            for name in (self._target.name, point.name):
                answers = {
                    key[1:]: answer
                    for key, answer in self.store.answers[name].items()
                    if key[0] == task and key in self.store.answers[point.name]
                }
                columns.append(scorer.score(texts_by_request(answers)))
            if not columns[0]:
                continue
            assert self.loaded.deciding is not None
            metric = self.loaded.deciding[task]
            own, other = (scorer.values(column, metric) for column in columns)
            docs = [doc for doc in other if doc in own]
            if not docs:
                raise ConfigError(
                    f"point {point.name}: of {len(columns[1])} items of task {task!r} none has "
                    f"{named(metric)} by both its answer and the target's",
                    fix="raise --limit, or let another metric decide by --metric",
                )
            found.append(
                (
                    [own[doc] for doc in docs],
                    [other[doc] for doc in docs],
                    [document(self._by_item[task, doc][0]) for doc in docs],
                )
            )
        return found


def price_group(config: FLyConfig) -> str:
    """Points whose rounds cost the same at the same K: the drafter and what else its forwards
    depend on."""
    return json.dumps(config.setup.drafting, sort_keys=True)


def document(ready: Asked) -> str:
    """What distinguishes a document of a task from all others; repeated documents are the same."""
    return f"{ready.task} {ready.doc_hash or ready.instance.doc_id}"


def shuffled(ready: Asked, salt: str) -> bytes:
    """A key that orders documents at random, the same in every run."""
    return hashlib.sha256(f"{salt} {document(ready)}".encode()).digest()


def halves(ready: Sequence[Asked], heldout: float) -> tuple[list[Asked], list[Asked]]:
    """Requests for the search, and those of the held-out share of every task's documents."""
    search: list[Asked] = []
    unseen: list[Asked] = []
    for task in dict.fromkeys(one.task for one in ready):
        own = [one for one in ready if one.task == task]
        keys = sorted({shuffled(one, "held out") for one in own})
        out = set(keys[: round(heldout * len(keys))])
        for one in own:
            (unseen if shuffled(one, "held out") in out else search).append(one)
    return search, unseen
