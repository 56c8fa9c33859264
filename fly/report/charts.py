"""Charts of the page, each with its numbers as a table.  Intervals, curves over a proposal, rounds,
phases, and the frontier of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fly.formats.sweep import Point
from fly.report import numbers
from fly.report.plots import (
    DANGER,
    INK,
    MUTED,
    NUM_SERIES,
    RULE,
    SAFE,
    SERIES,
    SURFACE,
    Plot,
    draw,
    short,
)
from fly.stats.records import POINT, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*"
_DASHES: tuple[object, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_ROW = 0.3  # inches of a line of a chart of intervals or phases
_FOOT = 0.75  # inches of its axis


@dataclass(frozen=True)
class ChartEntry:
    """A line of a chart of intervals."""

    group: str  # a task
    label: str  # a method
    interval: Interval
    is_reference: bool = False  # the control, drawn paler


@dataclass(frozen=True)
class Reference:
    """A reference drawn across a chart."""

    value: float
    label: str
    is_limit: bool = False  # the margin


@dataclass(frozen=True)
class Series:
    """A method's curve over positions, or its rounds by the number of kept tokens."""

    label: str
    values: Sequence[float]


def intervals(
    name: str, title: str, unit: str, entries: Sequence[ChartEntry], lines: Sequence[Reference]
) -> Plot | None:
    """Estimates with their 95 % intervals, one below the other; None where there is nothing."""
    known = [entry for entry in entries if entry.interval.estimate is not None]
    if not known:
        return None
    groups = list(dict.fromkeys(entry.group for entry in known))
    shown: list[ChartEntry | str] = []
    for group in groups:
        shown += [group] if len(groups) > 1 else []
        shown += [entry for entry in known if entry.group == group]

    def paint(axes: Axes) -> None:
        for height, entry in enumerate(shown):
            if isinstance(entry, ChartEntry):
                _paint_interval(axes, height, entry)
        for line in lines:
            colour = DANGER if line.is_limit else MUTED
            axes.axvline(line.value, color=colour, linewidth=1.1, linestyle=(0, (4, 3)))
            axes.text(
                line.value,
                -0.75,
                line.label,
                color=colour,
                fontsize=9,
                ha="center",
                va="bottom",
            )
        names = [_tick(entry) for entry in shown]
        axes.set_yticks(range(len(shown)), names)
        for height, tick in enumerate(axes.get_yticklabels()):
            if isinstance(shown[height], str):
                tick.set_fontweight("bold")
        axes.set_ylim(len(shown) - 0.4, -0.7)
        axes.margins(x=0.1)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(unit)

    rows = [
        [
            entry.group,
            entry.label,
            numbers.number(entry.interval.estimate, 3),
            numbers.spread(entry.interval, digits=3) or numbers.UNKNOWN,
            entry.interval.method,
        ]
        for entry in known
    ]
    told = "; ".join(f"{line.label} at {line.value:g}" for line in lines)
    label = f"{title}: estimates with 95 % intervals for {len(known)} methods. Lines: {told}."
    svg = draw(name, _FOOT + _ROW * len(shown), paint)
    columns = ["Task", "Method", "Estimate", "95 % interval", "How"]
    return Plot(name, title, label, svg, columns, rows)


def _tick(entry: ChartEntry | str) -> str:
    return short(entry if isinstance(entry, str) else entry.label)


def _paint_interval(axes: Axes, height: int, entry: ChartEntry) -> None:
    estimate, low, high = entry.interval.estimate, entry.interval.low, entry.interval.high
    colour = MUTED if entry.is_reference else SERIES[0]
    if low is not None and high is not None:
        axes.plot([low, high], [height, height], color=colour, linewidth=2, solid_capstyle="butt")
    face = "none" if entry.is_reference else colour
    if estimate is not None:
        axes.plot([estimate], [height], "o", color=colour, markerfacecolor=face, markersize=6)


def by_position(name: str, task: str, series: Sequence[Series]) -> Plot | None:
    """The share of drafted tokens kept, over their position in the proposal."""
    known = [line for line in series if line.values]
    if not known:
        return None
    from matplotlib.ticker import MaxNLocator

    def paint(axes: Axes) -> None:
        for number, line in enumerate(known):
            axes.plot(range(1, len(line.values) + 1), line.values, **_style_of(number, line.label))
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("position in the proposal")
        axes.set_ylabel("share kept")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.legend(loc="best")

    length = max(len(line.values) for line in known)
    rows = [
        [line.label, *(numbers.percent(value) for value in line.values)]
        + [numbers.UNKNOWN] * (length - len(line.values))
        for line in known
    ]
    title = f"Acceptance by draft position: {task}"
    label = f"{title}. " + "; ".join(
        f"{line.label} from {numbers.percent(line.values[0])} at position 1 to "
        f"{numbers.percent(line.values[-1])} at position {len(line.values)}"
        for line in known
    )
    columns = ["Method", *(str(position) for position in range(1, length + 1))]
    return Plot(name, title, label, draw(name, 2.6, paint), columns, rows)


def kept_per_round(name: str, task: str, series: Sequence[Series]) -> Plot | None:
    """The share of rounds by the number of proposed tokens that they kept."""
    known = [line for line in series if sum(line.values)]
    if not known:
        return None
    from matplotlib.ticker import MaxNLocator

    shares = [[count / sum(line.values) for count in line.values] for line in known]

    def paint(axes: Axes) -> None:
        for number, line in enumerate(known):
            axes.plot(range(len(line.values)), shares[number], **_style_of(number, line.label))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("proposed tokens kept in a round")
        axes.set_ylabel("share of rounds")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.legend(loc="best")

    length = max(len(line.values) for line in known)
    rows = [
        [line.label, *(f"{count:,.0f}" for count in line.values)]
        + [numbers.UNKNOWN] * (length - len(line.values))
        for line in known
    ]
    title = f"Accepted length per round: {task}"
    means = [sum(kept * share for kept, share in enumerate(line)) for line in shares]
    label = f"{title}. On average kept: " + "; ".join(
        f"{line.label} {mean:.2f} tokens" for line, mean in zip(known, means, strict=True)
    )
    columns = ["Rounds that kept", *(str(kept) for kept in range(length))]
    return Plot(name, title, label, draw(name, 2.6, paint), columns, rows)


def _style_of(number: int, label: str) -> dict[str, Any]:
    """Distinguished by colour, by marker and by dashes."""
    return {
        "color": SERIES[number % NUM_SERIES],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "markersize": 4.5,
        "linewidth": 1.6,
        "label": short(label, 40),
    }


def phases(name: str, entries: Sequence[tuple[str, str, dict[str, float]]]) -> Plot | None:
    """Shares of the seconds of each (task, method) by phase."""
    known = [entry for entry in entries if sum(entry[2].values()) > 0]
    if not known:
        return None
    names = list(dict.fromkeys(phase for *_, seconds in known for phase in seconds))
    num_tasks = len({task for task, *_ in known})

    def paint(axes: Axes) -> None:
        for height, (_, _, seconds) in enumerate(known):
            left, total = 0.0, sum(seconds.values())
            for number, phase in enumerate(names):
                share = seconds.get(phase, 0) / total
                axes.barh(
                    height,
                    share,
                    left=left,
                    height=0.62,
                    color=SERIES[number % NUM_SERIES],
                    edgecolor=SURFACE,
                    linewidth=1.2,
                    label=short(phase) if height == 0 else None,
                )
                left += share
        labels = [short(f"{task}: {label}" if num_tasks > 1 else label) for task, label, _ in known]
        axes.set_yticks(range(len(known)), labels)
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.spines["left"].set_visible(False)
        axes.figure.legend(loc="outside upper left", ncols=3)

    rows = [
        [task, label, *(numbers.number(seconds.get(phase, 0), 1) for phase in names)]
        for task, label, seconds in known
    ]
    title = "Time by phase"
    label = f"{title}, in shares of each method's seconds. " + "; ".join(
        f"{label} on {task}: most in {max(seconds, key=seconds.__getitem__)}"
        for task, label, seconds in known
    )
    height = _FOOT + _ROW * len(known) + 0.25 * -(-len(names) // 3)
    columns = ["Task", "Method", *(f"{phase}, s" for phase in names)]
    return Plot(name, title, label, draw(name, height, paint), columns, rows)


def frontier(
    name: str,
    points: Sequence[Point],
    recommended: str | None,
    margin: float,
    *,
    in_points: bool = False,
) -> Plot:
    """Speedup against recovery for every point of a sweep, or against the difference in points."""
    known = [
        (point, point.speedup.estimate, kept)
        for point in points
        if point.speedup.estimate is not None and (kept := _kept(point, in_points)) is not None
    ]
    quantity = "difference in points" if in_points else "recovery"

    def paint(axes: Axes) -> None:
        axes.axhline(margin, color=DANGER, linewidth=1.1, linestyle=(0, (4, 3)))
        best = sorted((x, y) for point, x, y in known if point.on_frontier)
        axes.plot(*zip(*best, strict=True), color=SERIES[0], linewidth=1.4) if best else None
        for point, x, y in known:
            lower = point.points_lower if in_points else point.recovery_lower
            if lower is not None:
                axes.plot([x, x], [lower, y], color=RULE, linewidth=1.2, zorder=1)
            stopped = point.stopped is not None
            colour = SERIES[0] if point.on_frontier else MUTED
            face = "none" if stopped else colour
            axes.plot([x], [y], "s" if stopped else "o", color=colour, mfc=face, markersize=5)
            if point.name == recommended:
                axes.plot([x], [y], "o", color=SAFE, mfc="none", markersize=13, mew=2)
                axes.annotate(
                    short(point.name), (x, y), (0, 11), textcoords="offset points",
                    color=INK, fontsize=9.5, ha="center",
                )  # fmt: skip
        axes.annotate(
            f"margin {margin:g}", (0.995, margin), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", color=DANGER, fontsize=9,
        )  # fmt: skip
        axes.margins(0.12)
        axes.grid()
        axes.set_xlabel("speedup against the target")
        axes.set_ylabel(quantity)

    title = f"Speedup against {quantity}"
    names = ", ".join(point.name for point, *_ in known if point.on_frontier)
    label = f"{title} of {len(known)} settings. On the frontier: {names or 'none'}. " + (
        f"Recommended: {recommended}." if recommended else "None is recommended."
    )
    show = numbers.number if in_points else numbers.percent
    rows = [[point.name, numbers.times(x), show(y)] for point, x, y in known]
    columns = ["Setting", "Speedup", quantity.capitalize()]
    return Plot(name, title, label, draw(name, 3.6, paint), columns, rows)


def _kept(point: Point, in_points: bool) -> float | None:
    if not in_points:
        return point.recovery.estimate
    difference = point.paired.difference.estimate
    return None if difference is None else difference / POINT
