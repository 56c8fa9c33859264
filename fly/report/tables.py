"""Tables of the page.  Methods of a task, their texts and costs, scores of a run, points of a
sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fly.formats.comparison import MethodResult, Score, TaskResult
from fly.formats.sweep import Point, Sweep
from fly.report import numbers
from fly.report.harness import Measured, RunTask
from fly.stats.records import POINT, Interval, Paired

VERDICT_KINDS = {"SAFE": "safe", "NOT SAFE": "danger", "INCONCLUSIVE": "open"}
_ROLES = {
    "target": "reference",
    "control": "noise floor",
    "baseline": "baseline",
    "method": "",
}


@dataclass(frozen=True)
class Cell:
    """A value and what stands below it in small print; `kind` colours a verdict."""

    text: str
    below: str = ""
    kind: str = ""


@dataclass(frozen=True)
class TableRow:
    """Its first cell is the row's heading."""

    cells: list[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A heading and what it means."""

    name: str
    meaning: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, columns and rows of as many cells."""

    caption: str
    columns: list[Column]
    rows: list[TableRow]
    notes: list[tuple[str, str]] = field(default_factory=list)  # method and advice


_METHOD = Column("Method", is_text=True)
_COMPARED_COLUMNS = [
    Column("Score", "below it its standard error"),
    Column("Recovery", "score by the target's score, with its 95 % interval"),
    Column("Difference", "in points of the score, method minus target, with its 95 % interval"),
    Column("Gained / lost", "items scored higher and lower than by the target"),
]
_METHOD_COLUMNS = [
    _METHOD,
    Column("Verdict", "by a rule fixed before the run", is_text=True),
    *_COMPARED_COLUMNS,
    Column("McNemar p", "exact, two-sided"),
    Column(
        "vs baseline", "speed by that of the fastest plain decoding; below it the 95 % interval"
    ),
    Column(
        "vs target", "speed by that of the same engine without a draft; below it the 95 % interval"
    ),
    Column("vs native", "speed by that of native speculative decoding; below it the 95 % interval"),
    Column("Tokens/s", "prefill included"),
    Column("τ", "tokens per round, bonus included"),
    Column("Accepted", "of the proposed tokens"),
    Column("Loose", "of the emitted tokens"),
    Column("Equal texts", "the same token ids as the target's answer"),
    Column("Peak memory"),
]
_COST_COLUMNS = [
    _METHOD,
    Column("Tokens per answer", "mean; below it the target's"),
    Column("Near ties", "texts that first differ where the target's two best logits nearly tie"),
    Column("Loose before", "differing texts with a loosened token at or before the difference"),
    Column("Gap", "the target's p(best) less p(second) at the first difference, mean"),
    Column("Draft forward", "in plain steps of the target"),
    Column("Verification", "in plain steps of the target"),
    Column("Overhead", "in plain steps of the target"),
    Column("Ideal speedup", "τ by the draft's cost alone, as papers reckon"),
    Column("Predicted", "τ by the measured parts of a round"),
    Column("Measured", "against the target in the same engine"),
]


_PARTS = "draft_forward", "verification", "overhead"  # of a Cost
_SPEEDUPS = "ideal_speedup", "predicted_speedup", "measured_speedup"


def methods_table(task: TaskResult) -> Table:
    """Scores, recovery, speed and acceptance of every method on a task."""
    direction = "" if task.methods[0].score.higher_is_better else ", lower is better"
    first = task.methods[0].score
    items = f"{task.num_items:,} items"
    if first.num_items not in (None, task.num_items):
        items = f"{first.num_items:,} of {items}"
    decides = " decides" if task.methods[0].other_scores and task.metric else ""
    caption = f"{task.task}: {items}, {first.metric} ({first.filter}){decides}{direction}"
    rows = [_method_row(method, task.point) for method in task.methods]
    return Table(caption, _METHOD_COLUMNS, rows)


def others_table(task: TaskResult) -> Table | None:
    """The metrics that do not decide, a row for each of every method; None where there are none."""
    columns = [
        _METHOD,
        Column("Metric", is_text=True),
        Column("Items", "that have it by all methods"),
        *_COMPARED_COLUMNS,
    ]
    rows = []
    for method in task.methods:
        for score in method.other_scores:
            paired = score.paired
            cells = [
                _name(method),
                Cell(
                    f"{score.metric} ({score.filter})",
                    "" if score.higher_is_better else "lower is better",
                ),
                Cell(numbers.UNKNOWN if score.num_items is None else f"{score.num_items:,}"),
                *_compared(score, paired, POINT),
            ]
            rows.append(TableRow(cells, method.role))
    return Table(f"{task.task}: other metrics", columns, rows) if rows else None


def costs_table(task: TaskResult) -> Table:
    """How the texts differ, and why a method is slow or fast, with advice."""
    rows, notes = [], []
    for method in task.methods:
        cost = method.cost
        parts = (getattr(cost, name, None) for name in _PARTS)
        speedups = (getattr(cost, name, None) for name in _SPEEDUPS)
        texts = method.texts
        cells = [
            _name(method),
            Cell(f"{texts.mean_tokens:,.1f}", f"{texts.mean_tokens_target:,.1f}"),
            Cell(f"{texts.num_ties:,}"),
            Cell(f"{texts.num_loose_before:,}"),
            Cell(numbers.number(texts.mean_gap, 3)),
            *(Cell(numbers.number(part)) for part in parts),
            *(Cell(numbers.times(speedup)) for speedup in speedups),
        ]
        rows.append(TableRow(cells, method.role))
        if cost and cost.advice:
            notes.append((method.name, cost.advice))
        if method.shares is not None:
            notes.append((method.name, method.shares.in_words))
    return Table(f"{task.task}: texts and costs", _COST_COLUMNS, rows, notes)


def score_text(score: Score, digits: int = 4) -> Cell:
    """A score with its standard error below."""
    below = "" if score.stderr is None else f"± {score.stderr:,.{digits}f}"
    return Cell(numbers.number(score.value, digits), below)


def loss(is_lossless: bool | None) -> str:
    """Whether a text is the target's own, in a word; nothing where a file lacks it."""
    return "" if is_lossless is None else "lossless" if is_lossless else "lossy"


def _name(method: MethodResult) -> Cell:
    parts = [_ROLES[method.role], f"batch {method.batch_size}"]
    if method.role == "method":
        parts.append(loss(method.is_lossless))
    return Cell(method.name, ", ".join(part for part in parts if part))


def _compared(score: Score, paired: Paired | None, point: float) -> list[Cell]:
    """Of `_COMPARED_COLUMNS`."""
    return [
        score_text(score),
        _recovery(paired.recovery if paired else None),
        _difference(paired.difference if paired else None, point),
        Cell(numbers.changes(paired.gained, paired.lost) if paired else numbers.UNKNOWN),
    ]


def _method_row(method: MethodResult, point: float) -> TableRow:
    paired, speed, accepted, texts = method.paired, method.speed, method.acceptance, method.texts
    verdict = method.verdict
    cells = [
        _name(method),
        Cell(verdict.verdict, kind=VERDICT_KINDS[verdict.verdict]) if verdict else Cell(""),
        *_compared(method.score, paired, point),
        Cell(numbers.p_value(paired.mcnemar_p if paired else None)),
        _speedup(speed.vs_baseline),
        _speedup(speed.vs_target),
        _speedup(speed.vs_native),
        Cell(numbers.number(speed.tokens_per_s, 1)),
        Cell(numbers.number(accepted.mean_acceptance_length if accepted else None)),
        Cell(numbers.percent(accepted.acceptance_rate if accepted else None)),
        Cell(numbers.percent(accepted.loose_share if accepted else None, 2)),
        Cell(f"{texts.num_equal:,}", f"of {texts.num_answers:,}"),
        Cell(numbers.size(method.peak_memory_bytes)),
    ]
    return TableRow(cells, method.role)


def _speedup(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(numbers.UNKNOWN)
    return Cell(numbers.times(interval.estimate), numbers.spread(interval))


def _recovery(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(numbers.UNKNOWN)
    below = numbers.spread(interval, 100, 1) or (interval.method if interval.estimate else "")
    return Cell(numbers.percent(interval.estimate), below)


def _difference(interval: Interval | None, point: float) -> Cell:
    if interval is None:
        return Cell(numbers.UNKNOWN)
    return Cell(numbers.points(interval, point), numbers.spread(interval, 1 / point, 1))


def run_table(tasks: Sequence[RunTask]) -> Table:
    """lm-eval's scores."""
    columns = [
        Column("Task", is_text=True),
        Column("Metric", is_text=True),
        Column("Filter", is_text=True),
        Column("Score", "below it its standard error"),
        Column("Items"),
    ]
    rows = [
        TableRow(
            [
                Cell(task.task),
                Cell(score.metric, "" if score.higher_is_better else "lower is better"),
                Cell(score.filter),
                score_text(score),
                Cell(numbers.UNKNOWN if task.num_items is None else f"{task.num_items:,}"),
            ]
        )
        for task in tasks
        for score in task.scores
    ]
    return Table("Scores, as lm-eval reports them", columns, rows)


def measured_table(measured: Sequence[Measured]) -> Table:
    """What decoding did, from the answers themselves."""
    columns = [
        Column("Task", is_text=True),
        Column("Method", is_text=True),
        Column("Answers"),
        Column("Tokens"),
        Column("Rounds"),
        Column("τ", "tokens per round, bonus included"),
        Column("Accepted", "of the proposed tokens"),
        Column("Loose", "of the emitted tokens"),
    ]
    rows = []
    for one in measured:
        found = one.acceptance
        cells = [
            Cell(one.task),
            Cell(one.method),
            Cell(f"{one.num_answers:,}"),
            Cell(f"{one.num_tokens:,}"),
            Cell(f"{found.rounds:,}" if found else numbers.UNKNOWN),
            Cell(numbers.number(found.mean_acceptance_length if found else None)),
            Cell(numbers.percent(found.acceptance_rate if found else None)),
            Cell(numbers.percent(found.loose_share if found else None, 2)),
        ]
        rows.append(TableRow(cells))
    return Table("Decoding, counted from the answers", columns, rows)


def _lower(point: Point) -> str:
    if point.points_lower is not None:
        return f"{point.points_lower:+,.1f} points".replace("-", numbers.MINUS)
    return numbers.percent(point.recovery_lower)


def points_table(swept: Sweep) -> Table:
    """Every setting that was tried."""
    columns = [
        Column("Setting", is_text=True),
        Column("Items"),
        Column("Speedup", "against the target, 95 % interval"),
        Column("Recovery", "95 % interval"),
        Column("Difference", "in points of the score, 95 % interval"),
        Column("Lower bound", "one-sided 95 %, of recovery, or of the difference in points"),
        Column("Gained / lost"),
        Column("τ", "tokens per round, bonus included"),
        Column("Accepted"),
        Column("Loose"),
        Column("Rounds"),
        Column("Stopped early", is_text=True),
    ]
    rows = []
    for point in sorted(swept.points, key=lambda point: -(point.speedup.estimate or 0)):
        marks = ["recommended"] if point.name == swept.recommended else []
        marks += ["on the frontier"] if point.on_frontier else []
        remarks = [*marks, loss(point.is_lossless)]
        cells = [
            Cell(point.name, ", ".join(filter(None, remarks))),
            Cell(f"{point.num_items:,}"),
            _speedup(point.speedup),
            _recovery(point.recovery),
            _difference(point.paired.difference, POINT),
            Cell(_lower(point)),
            Cell(numbers.changes(point.paired.gained, point.paired.lost)),
            Cell(numbers.number(point.mean_acceptance_length)),
            Cell(numbers.percent(point.acceptance_rate)),
            Cell(numbers.percent(point.loose_share, 2)),
            Cell(f"{point.rounds:,}"),
            Cell(point.stopped or ""),
        ]
        rows.append(TableRow(cells, "recommended" if marks[:1] == ["recommended"] else ""))
    return Table("Every setting of the grid, the fastest first", columns, rows)
