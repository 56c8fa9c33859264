"""A comparison on the terminal: verdicts and scores, speeds, texts; then what to make of them."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fly.formats.comparison import Comparison, MethodResult, TaskResult
from fly.formats.model import Interval

FILE_WIDTH = 400  # columns, where the output is no terminal: no name is broken in two
_ROLES = {"target": "", "method": "", "control": " (A/A control)", "baseline": " (plain baseline)"}
_NOTHING = "-"
_SCORE_COLUMNS = (
    *("score", "recovery", "95 %", "difference, points", "gained", "lost", "McNemar p"),
    *("same text", "verdict"),
)
_SPEED_COLUMNS = (
    *("batch", "tokens/s", "/ baseline", "95 %", "/ target", "/ native", "τ", "accepted"),
    *("loose", "peak memory"),
)
_ROUND_COLUMNS = (
    *("rounds", "kept at 1st", "middle", "last position", "prefill, s", "draft", "target"),
    *("acceptance", "rest"),
)
_TEXT_COLUMNS = (
    *("texts that differ", "a loosened token before", "ties", "target's mean top-2 gap there"),
    *("tokens an answer", "of the target"),
)


def print_comparison(result: Comparison) -> None:
    """Print everything but single items on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    for task in result.tasks:
        console.print(_scores(task, result))
        console.print(_speeds(task, result))
        console.print(_rounds(task))
        console.print(_texts(task))
        for line in _sentences(task, result):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        console.print()
    for note in result.notes:
        console.print(f"Note: {note}.", highlight=False, soft_wrap=True, markup=False)


def make_table(title: str, columns: Sequence[str]) -> Table:
    """A table whose first column names the rows."""
    table = Table(
        title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True
    )
    table.add_column("method", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _scores(task: TaskResult, result: Comparison) -> Table:
    first = task.methods[0].score
    points = "" if task.margin_points is None else f" = {task.margin_points:.1f} points"
    title = (
        f"{task.task}: {first.metric} ({first.filter}), {task.num_items:,} items, margin "
        f"{result.margin:g}{points}"
    )
    table = make_table(
        title,
        _SCORE_COLUMNS,
    )
    for method in task.methods:
        paired = method.paired
        table.add_row(
            f"{escape(method.name)}{_ROLES[method.role]}",
            _score(method),
            number(paired.recovery.estimate if paired else None, "{:.1%}"),
            bounds(paired.recovery if paired else None, "{:.1%}"),
            _points(paired.difference if paired else None),
            str(paired.gained) if paired else _NOTHING,
            str(paired.lost) if paired else _NOTHING,
            number(paired.mcnemar_p if paired else None, "{:.3f}"),
            f"{method.texts.num_equal}/{method.texts.num_answers}",
            _verdict(method),
        )
    return table


def _speeds(task: TaskResult, result: Comparison) -> Table:
    table = make_table(
        f"{task.task}: speed in blocks of {result.block_size} requests at most; baseline is "
        f"{result.baseline}, the fastest plain decoding found",
        _SPEED_COLUMNS,
    )
    for method in task.methods:
        speed, accepted = method.speed, method.acceptance
        table.add_row(
            escape(method.name),
            str(method.batch_size),
            number(speed.tokens_per_s, "{:,.0f}"),
            _ratio(speed.vs_baseline),
            bounds(speed.vs_baseline, "{:.2f}"),
            _ratio(speed.vs_target),
            _ratio(speed.vs_native),
            number(accepted.mean_acceptance_length if accepted else None, "{:.2f}"),
            number(accepted.acceptance_rate if accepted else None, "{:.1%}"),
            number(accepted.loose_share if accepted else None, "{:.2%}"),
            _memory(method.peak_memory_bytes),
        )
    return table


def _rounds(task: TaskResult) -> Table:
    """What became of proposals by their position, and where the time went."""
    table = make_table(f"{task.task}: rounds and seconds", _ROUND_COLUMNS)
    for method in task.methods:
        accepted = method.acceptance
        kept = accepted.by_position if accepted else []
        places = [kept[0], kept[len(kept) // 2], kept[-1]] if kept else [None] * 3
        table.add_row(
            method.name,
            _NOTHING if accepted is None else f"{accepted.rounds:,}",
            *(number(share, "{:.0%}") for share in places),
            *(f"{seconds:.1f}" for seconds in method.seconds_by_phase.values()),
        )
    return table


def _texts(task: TaskResult) -> Table:
    """How answers differ from the target's own."""
    table = make_table(f"{task.task}: texts beside the target's own", _TEXT_COLUMNS)
    for method in task.methods[1:]:
        texts = method.texts
        table.add_row(
            method.name,
            f"{texts.num_answers - texts.num_equal} of {texts.num_answers}",
            str(texts.num_loose_before),
            str(texts.num_ties),
            number(texts.mean_gap, "{:.3f}"),
            f"{texts.mean_tokens:.1f}",
            f"{texts.mean_tokens_target:.1f}",
        )
    return table


def _sentences(task: TaskResult, result: Comparison) -> list[str]:
    lines = []
    for method in task.methods:
        if method.verdict is not None:
            lines.append(f"{method.name}: {method.verdict.verdict}. {method.verdict.explanation}")
        if method.cost is not None:
            cost = method.cost
            lines.append(
                f"{method.name}: predicted {number(cost.predicted_speedup, '{:.2f}')}, measured "
                f"{number(cost.measured_speedup, '{:.2f}')} times the target at its batch (ideal "
                f"{number(cost.ideal_speedup, '{:.2f}')}); in plain steps a draft forward costs "
                f"{number(cost.draft_forward, '{:.2f}')}, verifying "
                f"{number(cost.verification, '{:.2f}')}, the rest of a round "
                f"{number(cost.overhead, '{:.2f}')}. {cost.advice}"
            )
    control = next((m for m in task.methods if m.name == result.control), None)
    if control is not None and control.paired is not None:
        texts, paired = control.texts, control.paired
        lines.append(
            f"Noise floor ({control.name} beside {task.methods[0].name}): "
            f"{texts.num_answers - texts.num_equal} of {texts.num_answers} texts differ, "
            f"{paired.gained} items gained, {paired.lost} lost."
        )
    return lines


def _ratio(interval: Interval | None) -> str:
    return number(interval.estimate if interval else None, "{:.2f}")


def _memory(num_bytes: int | None) -> str:
    return _NOTHING if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"


def _score(method: MethodResult) -> str:
    value = number(method.score.value, "{:.4f}")
    return value if method.score.stderr is None else f"{value} ± {method.score.stderr:.4f}"


def _verdict(method: MethodResult) -> str:
    if method.verdict is not None:
        return method.verdict.verdict
    if method.role == "target":
        return "reference"
    return "lossless" if method.is_lossless else _NOTHING


def _points(interval: Interval | None) -> str:
    if interval is None or interval.estimate is None:
        return _NOTHING
    text = f"{100 * interval.estimate:+.1f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def bounds(interval: Interval | None, form: str) -> str:
    """Both ends, or a dash."""
    if interval is None or interval.low is None or interval.high is None:
        return _NOTHING
    return f"{form.format(interval.low)} to {form.format(interval.high)}"


def number(value: float | None, form: str) -> str:
    """The value in its form, or a dash."""
    return _NOTHING if value is None else form.format(value)
