"""A sweep on the terminal: all points, fastest first, then the held-out comparison."""

from __future__ import annotations

from fly.cli.comparison_table import bounds, number, print_comparison
from fly.formats.sweep import Point, Sweep
from fly.stats.records import POINT
from fly.terminal import console, make_table, say

_COLUMNS = (
    *("items", "speedup (from rounds)", "95 %", "score", "recovery", "difference, points"),
    *("lower bound", "gained", "lost", "τ", "accepted", "loose", "remarks"),
)


def print_sweep(result: Sweep) -> None:
    """Print everything on standard output."""
    table = make_table(
        f"{', '.join(result.tasks)}: {len(result.points)} settings on {result.num_search_items:,} "
        f"items, margin {_margin(result)}",
        _COLUMNS,
    )
    for point in sorted(result.points, key=lambda point: -(point.speedup.estimate or 0.0)):
        table.add_row(
            point.name,
            str(point.num_items),
            number(point.speedup.estimate, "{:.2f}"),
            bounds(point.speedup, "{:.2f}"),
            f"{point.score:.4f}",
            number(point.recovery.estimate, "{:.1%}"),
            _points(point),
            _lower(point),
            str(point.paired.gained),
            str(point.paired.lost),
            number(point.mean_acceptance_length, "{:.2f}"),
            number(point.acceptance_rate, "{:.1%}"),
            number(point.loose_share, "{:.2%}"),
            _remarks(point, result),
        )
    console().print(table)
    saving = result.saving
    say(
        f"{saving.rounds_decoded:,} rounds were decoded instead of "
        f"{saving.rounds_if_none_had_stopped:,} that every setting alone on all items would have "
        f"taken: {saving.share_saved:.0%} saved.",
    )
    say(result.conclusion)
    if result.heldout is not None:
        say("\nHeld-out items:")
        print_comparison(result.heldout)


def _margin(result: Sweep) -> str:
    return f"{result.margin:g}" if result.margin else f"{result.margin_points:g} points"


def _points(point: Point) -> str:
    estimate = point.paired.difference.estimate
    return number(None if estimate is None else estimate / POINT, "{:+.1f}")


def _lower(point: Point) -> str:
    """Of what the margin is held against."""
    if point.points_lower is not None:
        return f"{point.points_lower:+.1f} points"
    return number(point.recovery_lower, "{:.1%}")


def _remarks(point: Point, result: Sweep) -> str:
    remarks = []
    if point.name == result.recommended:
        remarks.append("recommended")
    if point.on_frontier:
        remarks.append("on the frontier")
    if point.stopped is not None:
        remarks.append("stopped")
    if point.is_lossless:
        remarks.append("lossless")
    return ", ".join(remarks)
