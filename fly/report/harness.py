"""Results of `fly run --trace`, in the shape of a comparison's items.  They come from lm-eval's
results_*.json and samples_*.jsonl.  These files have no version: what is not understood is left
out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fly.formats.answers import Answer
from fly.formats.comparison import Score
from fly.formats.items import Item
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
