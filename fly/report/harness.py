"""Results of `fly run --trace`, in the shape of a comparison's items.  They come from lm-eval's
results_*.json and samples_*.jsonl, which have no version: what is not understood is left out.
Acceptance and seconds are counted from the answers, since a run has no compare.json."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fly.formats.answers import Answer, kept_by_position
from fly.formats.comparison import Acceptance, Item, Score
from fly.formats.reading import read_lines, read_object

# lm-eval's time stamp, the last part of its file names.
_DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[.\d]*?)\.jsonl?$")


@dataclass(frozen=True)
class RunTask:
    """lm-eval's scores of one task."""

    task: str
    num_items: int | None
    scores: list[Score]


@dataclass(frozen=True)
class Run:
    """The newest run of every task."""

    tasks: list[RunTask]
    items: list[Item]
    config: dict[str, Any]
    notes: list[str]


def date_of(path: Path) -> str:
    """The time stamp in a file name of lm-eval; empty where there is none."""
    found = _DATE.search(path.name)
    return found[1] if found else ""


def read_run(folder: Path, answers: Iterable[Answer]) -> Run:
    """Results and samples anywhere below a folder.

    Raises:
        ReportError: a file is damaged.
    """
    tasks: dict[str, RunTask] = {}
    config: dict[str, Any] = {}
    for path in sorted(folder.rglob("results_*.json"), key=date_of):
        record = read_object(path)
        for task in _tasks(record):
            tasks[task.task] = task
            config = _mapping(record.get("config"))
    methods: dict[str, list[str]] = {}
    for answer in answers:
        names = methods.setdefault(answer.task, [])
        if answer.method not in names:
            names.append(answer.method)
    notes: list[str] = []
    items = [
        item
        for name, path in _newest_samples(folder).items()
        if name in methods
        for item in _items(path, name, methods[name], notes)
    ]
    return Run([task for task in tasks.values() if task.scores], items, config, notes)


def _tasks(record: dict[str, Any]) -> Iterable[RunTask]:
    directions = _mapping(record.get("higher_is_better"))
    counts = _mapping(record.get("n-samples"))
    for name, values in _mapping(record.get("results")).items():
        scores = []
        for key, value in _mapping(values).items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or _number(value) is None:
                continue
            is_higher = _mapping(directions.get(name)).get(metric) is not False
            scores.append(
                Score(
                    metric=metric,
                    filter=chosen,
                    value=_number(value),
                    stderr=_number(values.get(f"{metric}_stderr,{chosen}")),
                    higher_is_better=is_higher,
                    num_items=None,
                )
            )
        count = _mapping(counts.get(name)).get("effective")
        yield RunTask(name, count if isinstance(count, int) else None, scores)


def _newest_samples(folder: Path) -> dict[str, Path]:
    """By task."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("samples_*.jsonl"), key=date_of):
        date = date_of(path)
        name = path.name.removeprefix("samples_").removesuffix(".jsonl").removesuffix(f"_{date}")
        found[name] = path
    return found


def _items(path: Path, task: str, methods: list[str], notes: list[str]) -> list[Item]:
    """The score is the first metric's after the first filter.  All methods of a run share it: it
    is one model's."""
    items: dict[tuple[int | None, str | None], Item] = {}
    for _, line in read_lines(path, notes):
        doc_id, doc_hash = line.get("doc_id"), line.get("doc_hash")
        place = (
            doc_id if isinstance(doc_id, int) else None,
            doc_hash if isinstance(doc_hash, str) else None,
        )
        if place in items:
            continue
        names = line.get("metrics")
        first = names[0] if isinstance(names, list) and names else ""
        value = _number(line.get(first)) if isinstance(first, str) else None
        target = line.get("target")
        items[place] = Item(
            task=task,
            doc_id=place[0],
            doc_hash=place[1],
            target_text=target if isinstance(target, str) else None,
            scores={} if value is None or math.isinf(value) else dict.fromkeys(methods, value),
            divergences={},
        )
    return list(items.values())


def _number(value: object) -> float | None:
    """A number, which may be infinite; None for all else."""
    if not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(found) else found


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Measured:
    """One method on one task."""

    task: str
    method: str
    num_answers: int
    num_tokens: int
    acceptance: Acceptance | None
    seconds_by_phase: dict[str, float]


def pool(answers: Sequence[Answer]) -> list[Measured]:
    """By task and method, in the order met."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.task, answer.method), []).append(answer)
    return [
        Measured(
            task,
            method,
            len(some),
            sum(len(answer.token_ids) for answer in some),
            acceptance(some),
            _seconds(some),
        )
        for (task, method), some in groups.items()
    ]


def acceptance(answers: Sequence[Answer]) -> Acceptance | None:
    """What became of proposals; None where nothing was proposed."""
    rounds = [pair for answer in answers for pair in answer.round_lens if pair[0] > 0]
    if not rounds:
        return None
    longest = max(proposed for proposed, _ in rounds)
    by_length = Counter(kept for _, kept in rounds)
    num_kept = sum(kept for _, kept in rounds)
    origins = Counter("".join(answer.origins for answer in answers))
    return Acceptance(
        mean_acceptance_length=(num_kept + len(rounds)) / len(rounds),
        acceptance_rate=num_kept / sum(proposed for proposed, _ in rounds),
        loose_share=origins["l"] / origins.total() if origins else None,
        rounds=len(rounds),
        by_position=kept_by_position(answers),
        kept_per_round=[by_length[kept] for kept in range(longest + 1)],
    )


def _seconds(answers: Sequence[Answer]) -> dict[str, float]:
    total: dict[str, float] = {}
    for answer in answers:
        for key, value in answer.statistics.items():
            if key.startswith("seconds_"):
                phase = key.removeprefix("seconds_")
                total[phase] = total.get(phase, 0.0) + value
    return total
