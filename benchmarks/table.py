"""A comparison as a table of the documentation, with its noise: `python benchmarks/table.py FILE`.

Counts and shares are over all tasks; ratios of speed, with their intervals, stand task by task.
Greedy rules that keep a token by the same share of the largest probability are one rule: one row,
whose speeds are the range of its copies, and one verdict in Holm's correction.  "By rounds" is what
the ratio to native would be if every round took as long: it has no noise.  The row "A/A" has the
noise: methods of the same drafter, length and batch size, with as many rounds, do the same work, so
their speeds should be equal; it is the largest factor between two.  With `--beside FILE …` another
row has the largest factor between runs of the same items, of `target`, `native` and `fly`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from fly.cli.comparison_table import bounds, number
from fly.formats.comparison import Comparison, MethodResult, TaskResult
from fly.formats.reading import read_comparison
from fly.stats.paired import PairedScores, compare_scores
from fly.stats.records import Interval
from fly.stats.verdict import judge_all

NOTHING = "-"
COLUMNS = ("method", "τ", "loose", "by rounds", "/ native", "/ plain", "gained", "lost", "verdicts")
NATIVE = "native"
REPEATED = ("target", NATIVE, "fly")  # whose code did not change between the runs
SAME_WORK = 0.02  # of the rounds: fewer differ in no method's work
SAME_RULE = 2  # decimals of the share of the largest probability
Tasks = list[MethodResult]  # one method on every task


class Table:
    """The rows of a comparison and what its speeds are worth."""

    def __init__(self, result: Comparison, withdrawn: Sequence[str] = ()) -> None:
        """Group the methods; speeds on the tasks `withdrawn` are left out."""
        self._result = result
        self._is_told = [task.task not in withdrawn for task in result.tasks]
        names = [one.name for one in result.tasks[0].methods if one.role != "control"]
        self.methods = {name: [_of(task, name) for task in result.tasks] for name in names}
        self.groups: dict[object, list[str]] = {}
        for name, tasks in self.methods.items():
            share = None if result.config["temperature"] else kept_share(tasks[0].settings)
            rule = name if share is None else round(share, SAME_RULE)
            self.groups.setdefault(rule, []).append(name)

    def rows(self) -> Iterator[list[str]]:
        """One for every rule that is its own, and the noise."""
        for names in self.groups.values():
            copies = [self.methods[name] for name in names]
            yield [
                " = ".join(f"`{name}`" for name in names),
                _range([_pooled(one, "mean_acceptance_length", "{:.1f}") for one in copies]),
                _range([_pooled(one, "loose_share", "{:.1%}") for one in copies]),
                self._by_rounds(copies[0]),
                self._speeds(copies, "vs_native"),
                self._speeds(copies, "vs_baseline"),
                _range([_count(one, "gained") for one in copies]),
                _range([_count(one, "lost") for one in copies]),
                told(self.verdicts.get(names[0], [])),
            ]
        if spread := ", ".join(f"{factor:.2f}" for factor in self.spreads()):
            yield ["*A/A: apart by*", "", "", "", spread, spread, "", "", ""]

    def spreads(self) -> list[float]:
        """By task: the slowest by the fastest second per round, of methods that do the same work.
        None where no two do."""
        pairs = [pair for pair in combinations(self.methods.values(), 2) if _same_work(*pair)]
        factors = [
            [abs(math.log(_per_round(a) / _per_round(b))) for a, b in zip(*pair, strict=True)]
            for pair in pairs
        ]
        return [math.exp(max(own)) for own in zip(*factors, strict=True)]

    def _speeds(self, copies: Sequence[Tasks], field: str) -> str:
        """Task by task: a ratio and its interval, or the estimates of several copies."""
        cells = []
        for is_told, task in zip(self._is_told, zip(*copies, strict=True), strict=True):
            found: list[Interval | None] = [getattr(one.speed, field) for one in task]
            if not is_told:
                continue
            if len(found) == 1:
                cells.append(_ratio(found[0]))
            else:
                cells.append(_range([f"{one.estimate:.2f}" for one in found if one]))
        return ", ".join(cells)

    def _by_rounds(self, tasks: Tasks) -> str:
        """Rounds of native acceptance by the method's; dash where a round is another."""
        native = self.methods.get(NATIVE)
        if native is None or tasks is native or _work(tasks[0]) != _work(native[0]):
            return NOTHING
        ratios = (_rounds(a) / _rounds(b) for a, b in zip(native, tasks, strict=True))
        return ", ".join(f"{ratio:.2f}" for ratio in ratios)

    @cached_property
    def verdicts(self) -> dict[str, list[str]]:
        """By name, task by task, of the first of equal rules, judged together."""
        judged = [
            (name, scores)
            for name, *_ in self.groups.values()
            for task, one in zip(self._result.tasks, self.methods[name], strict=True)
            if one.verdict and (scores := _scores(task, one))
        ]
        found: dict[str, list[str]] = {}
        verdicts = judge_all([scores for _, scores in judged])
        for (name, _), verdict in zip(judged, verdicts, strict=True):
            found.setdefault(name, []).append(verdict.verdict.lower())
        return found


def told(verdicts: Sequence[str]) -> str:
    """One where all tasks have the same."""
    return ", ".join(verdicts if len(set(verdicts)) > 1 else verdicts[:1]) or NOTHING


def kept_share(settings: Mapping[str, Any]) -> float | None:
    """The share of the largest probability at which a rule keeps a token greedily, whatever else it
    knows; None where it goes by something else."""
    given: Mapping[str, float] = settings.get("acceptance_settings", {})
    if given.keys() & {"max_difference", "top_n", "window"}:
        return None
    if settings.get("acceptance") == "margin":
        return given.get("ratio", math.exp(-given.get("max_gap", 0.3)))
    if settings.get("acceptance") == "cascade":
        return 1 - given.get("alpha", 0.2)
    return given.get("lenience", 0.5) if settings.get("acceptance") == "lenience" else None


def between_runs(results: Sequence[Comparison], field: str) -> dict[str, list[list[float]]]:
    """The ratios of methods that several runs have, task by task."""
    runs = [Table(result).methods for result in results]
    found = {}
    for name in REPEATED:
        own = [[getattr(m.speed, field) for m in run[name]] for run in runs if name in run]
        if len(own) > 1 and all(interval and interval.estimate for run in own for interval in run):
            found[name] = [[one.estimate for one in task] for task in zip(*own, strict=True)]
    return found


def between_row(results: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """The table's row of how far equal figures of several runs lie apart, and what it is of."""
    cells, lines = [], []
    for field in ("vs_native", "vs_baseline"):
        found = between_runs(results, field)
        spreads = [[max(task) / min(task) for task in tasks] for tasks in found.values()]
        cells.append(", ".join(f"{max(own):.2f}" for own in zip(*spreads, strict=True)))
        for name, tasks in found.items():
            told = ", ".join(f"{min(task):.2f} to {max(task):.2f}" for task in tasks)
            lines.append(f"`{name}` {field} in {len(tasks[0])} runs: {told}")
    return ["*between runs: apart by*", "", "", "", *cells, "", "", ""], lines


def _of(task: TaskResult, name: str) -> MethodResult:
    return next(method for method in task.methods if method.name == name)


def _work(method: MethodResult) -> object:
    """What a round's price depends on besides the rule."""
    keys = ("drafter", "drafter_settings", "spd_k", "draft_length")
    return method.batch_size, *(method.settings.get(key) for key in keys)


def _rounds(method: MethodResult) -> int:
    return method.acceptance.rounds if method.acceptance else 0


def _per_round(method: MethodResult) -> float:
    return method.speed.seconds / _rounds(method)


def _same_work(a: Tasks, b: Tasks) -> bool:
    counts = [(_rounds(one), _rounds(other)) for one, other in zip(a, b, strict=True)]
    is_near = all(min(pair) > (1 - SAME_WORK) * max(pair) for pair in counts)
    return is_near and _work(a[0]) == _work(b[0])


def _scores(task: TaskResult, method: MethodResult) -> PairedScores | None:
    """The paired scores again, from what they count."""
    if method.paired is None or method.paired.gained is None or method.paired.lost is None:
        return None
    count, gained, lost = method.paired.num_items, method.paired.gained, method.paired.lost
    solved = round((task.methods[0].score.value or 0.0) * count)
    target = [1.0] * solved + [0.0] * (count - solved)
    own = [0.0] * lost + [1.0] * (solved - lost + gained) + [0.0] * (count - solved - gained)
    return compare_scores(target, own, range(count))


def _count(tasks: Tasks, name: str) -> str:
    pairs = [method.paired for method in tasks if method.paired is not None]
    return str(sum(getattr(pair, name) or 0 for pair in pairs)) if pairs else NOTHING


def _pooled(tasks: Tasks, name: str, form: str) -> str:
    """A mean over tokens (of acceptance lengths over rounds) of all tasks."""
    total = weight = 0.0
    for method in tasks:
        value = None if method.acceptance is None else getattr(method.acceptance, name)
        if method.acceptance is None or value is None:
            return NOTHING
        tokens = method.texts.mean_tokens * method.texts.num_answers
        share = method.acceptance.rounds if name == "mean_acceptance_length" else tokens
        total += share * value
        weight += share
    return form.format(total / weight) if weight else NOTHING


def _range(cells: Sequence[str]) -> str:
    """What copies of one rule have, from the least to the most."""
    ordered = sorted(set(cells), key=lambda cell: float(cell.rstrip("%")) if cell != "-" else 0.0)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _ratio(interval: Interval | None) -> str:
    estimate = number(interval.estimate if interval else None, "{:.2f}")
    ends = bounds(interval, "{:.2f}")
    return estimate if ends == NOTHING else f"{estimate} ({ends})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="runs of the same items")
    parser.add_argument("--withdraw", nargs="*", default=[], help="tasks whose speeds say nothing")
    arguments = parser.parse_args()
    results = [read_comparison(path) for path in (arguments.file, *arguments.beside)]
    table = Table(results[0], arguments.withdraw)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    last, lines = between_row(results)
    for cells in [*table.rows(), *([last] if lines else [])]:
        print("| " + " | ".join(cells) + " |")
    print(
        f"\n{sum(map(len, table.verdicts.values()))} verdicts, corrected together", *lines, sep="\n"
    )


if __name__ == "__main__":
    main()
