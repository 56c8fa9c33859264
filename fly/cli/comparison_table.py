"""Tables of a comparison on the terminal, and the advice below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fly.formats.comparison import Comparison, MethodResult, Score, TaskResult
from fly.stats.records import POINT, Interval, Paired
from fly.terminal import console, make_table, say

if TYPE_CHECKING:
    from rich.table import Table

_ROLES = {"target": "", "method": "", "control": " (A/A control)", "baseline": " (plain baseline)"}
_NOTHING = "-"
_SCORE_COLUMNS = (
    *("score", "recovery", "95 %", "difference, points", "gained", "lost", "McNemar p"),
    *("same text", "verdict"),
)
_OTHER_COLUMNS = (
    *("metric", "items", "score", "recovery", "95 %", "difference, points", "gained", "lost"),
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
    screen = console()
    for task in result.tasks:
        screen.print(_scores(task, result))
        if task.methods[0].other_scores:
            screen.print(_others(task))
        screen.print(_speeds(task, result))
        screen.print(_rounds(task))
        screen.print(_texts(task))
        for line in _sentences(task, result):
            say(line)
        say()
    for note in result.notes:
        say(f"Note: {note}.")


def _scores(task: TaskResult, result: Comparison) -> Table:
    first = task.methods[0].score
    items = f"{task.num_items:,} items"
    if first.num_items not in (None, task.num_items):
        items = f"{first.num_items:,} of {items}"
    title = f"{task.task}: {first.metric} ({first.filter}), {items}, margin {_margin(task, result)}"
    table = make_table(
        title,
        _SCORE_COLUMNS,
    )
    for method in task.methods:
        paired = method.paired
        table.add_row(
            f"{method.name}{_ROLES[method.role]}",
            _value(method.score),
            number(paired.recovery.estimate if paired else None, "{:.1%}"),
            spread(paired.recovery if paired else None, "{:.1%}"),
            _points(paired.difference if paired else None, task.point),
            *_changes(paired),
            number(paired.mcnemar_p if paired else None, "{:.3f}"),
            f"{method.texts.num_equal}/{method.texts.num_answers}",
            _verdict(method),
        )
    return table


def _others(task: TaskResult) -> Table:
    """The metrics that do not decide, a row for each of every method."""
    table = make_table(f"{task.task}: other metrics", _OTHER_COLUMNS)
    for method in task.methods:
        for score in method.other_scores:
            paired = score.paired
            table.add_row(
                f"{method.name}{_ROLES[method.role]}",
                f"{score.metric} ({score.filter})",
                _NOTHING if score.num_items is None else f"{score.num_items:,}",
                _value(score),
                number(paired.recovery.estimate if paired else None, "{:.1%}"),
                spread(paired.recovery if paired else None, "{:.1%}"),
                _points(paired.difference if paired else None, POINT),
                *_changes(paired),
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
            method.name,
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
    if task.metric is not None and task.methods[0].other_scores:
        others = [f"{each.metric},{each.filter}" for each in task.methods[0].other_scores]
        lines.append(f"{task.metric} decides; --metric lets another: {', '.join(others)}.")
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
        if method.shares is not None:
            lines.append(f"{method.name}: {method.shares.in_words}")
    control = next((m for m in task.methods if m.name == result.control), None)
    if control is not None and control.paired is not None:
        texts, paired = control.texts, control.paired
        changes = ""
        if paired.gained is not None:
            changes = f", {paired.gained} items gained, {paired.lost} lost"
        lines.append(
            f"Noise floor ({control.name} beside {task.methods[0].name}): "
            f"{texts.num_answers - texts.num_equal} of {texts.num_answers} texts differ{changes}."
        )
    return lines


def _ratio(interval: Interval | None) -> str:
    return number(interval.estimate if interval else None, "{:.2f}")


def _memory(num_bytes: int | None) -> str:
    return _NOTHING if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"


def _value(score: Score) -> str:
    value = number(score.value, "{:.4f}")
    return value if score.stderr is None else f"{value} ± {score.stderr:.4f}"


def _verdict(method: MethodResult) -> str:
    if method.verdict is not None:
        return method.verdict.verdict
    if method.role == "target":
        return "reference"
    return "lossless" if method.is_lossless else _NOTHING


def _points(interval: Interval | None, point: float) -> str:
    if interval is None or interval.estimate is None:
        return _NOTHING
    text = f"{interval.estimate / point:+.1f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({interval.low / point:+.1f} to {interval.high / point:+.1f})"


def _changes(paired: Paired | None) -> tuple[str, str]:
    """Items gained and lost."""
    if paired is None or paired.gained is None or paired.lost is None:
        return _NOTHING, _NOTHING
    return str(paired.gained), str(paired.lost)


def spread(interval: Interval | None, form: str) -> str:
    """Both ends, or why there are none."""
    if interval is not None and interval.estimate is not None and interval.low is None:
        return interval.method
    return bounds(interval, form)


def _margin(task: TaskResult, result: Comparison) -> str:
    if result.margin_points is not None:
        return f"{result.margin_points:g} points ({result.margin_points * task.point:g})"
    points = "" if task.margin_points is None else f" = {task.margin_points:.1f} points"
    return f"{result.margin:g}{points}"


def bounds(interval: Interval | None, form: str) -> str:
    """Both ends, or a dash."""
    if interval is None or interval.low is None or interval.high is None:
        return _NOTHING
    return f"{form.format(interval.low)} to {form.format(interval.high)}"


def number(value: float | None, form: str) -> str:
    """The value in its form, or a dash."""
    return _NOTHING if value is None else form.format(value)
