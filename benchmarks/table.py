"""A comparison as a table of the documentation: `python benchmarks/table.py COMPARE_JSON`.

Counts and shares are over all tasks; ratios of speed, with their intervals, stand task by task.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fly.cli.comparison_table import bounds, number
from fly.formats.comparison import Comparison, MethodResult, TaskResult
from fly.stats.records import Interval

NOTHING = "-"
COLUMNS = ("method", "τ", "loose", "/ native", "/ plain", "gained", "lost", "verdicts")


def rows(result: Comparison) -> list[list[str]]:
    """One for every method but the A/A control."""
    names = [method.name for method in result.tasks[0].methods if method.role != "control"]
    return [row([method_of(task, name) for task in result.tasks]) for name in names]


def method_of(task: TaskResult, name: str) -> MethodResult:
    """A method on a task."""
    return next(method for method in task.methods if method.name == name)


def row(methods: Sequence[MethodResult]) -> list[str]:
    """One method's cells."""
    verdicts = [method.verdict.verdict.lower() if method.verdict else NOTHING for method in methods]
    pairs = [method.paired for method in methods if method.paired is not None]
    return [
        f"`{methods[0].name}`",
        _pooled(methods, "mean_acceptance_length", "{:.1f}"),
        _pooled(methods, "loose_share", "{:.1%}"),
        ", ".join(_ratio(method.speed.vs_native) for method in methods),
        ", ".join(_ratio(method.speed.vs_baseline) for method in methods),
        str(sum(pair.gained or 0 for pair in pairs)) if pairs else NOTHING,
        str(sum(pair.lost or 0 for pair in pairs)) if pairs else NOTHING,
        ", ".join(verdicts) if len(set(verdicts)) > 1 else verdicts[0],
    ]


def _pooled(methods: Sequence[MethodResult], name: str, form: str) -> str:
    """A mean over tokens (of acceptance lengths over rounds) of all tasks."""
    total = weight = 0.0
    for method in methods:
        value = None if method.acceptance is None else getattr(method.acceptance, name)
        if method.acceptance is None or value is None:
            return NOTHING
        tokens = method.texts.mean_tokens * method.texts.num_answers
        share = method.acceptance.rounds if name == "mean_acceptance_length" else tokens
        total += share * value
        weight += share
    return form.format(total / weight) if weight else NOTHING


def _ratio(interval: Interval | None) -> str:
    estimate = number(interval.estimate if interval else None, "{:.2f}")
    ends = bounds(interval, "{:.2f}")
    return estimate if ends == NOTHING else f"{estimate} ({ends})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    result = Comparison.model_validate_json(parser.parse_args().file.read_text(encoding="utf-8"))
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for cells in rows(result):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
