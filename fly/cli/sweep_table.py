"""A sweep on the terminal: all points, fastest first, then the held-out comparison."""

from __future__ import annotations

from rich.console import Console

from fly.cli.comparison_table import (
    FILE_WIDTH,
    bounds,
    make_table,
    number,
    print_comparison,
)
from fly.formats.sweep import Point, Sweep

_COLUMNS = (
    *("items", "speedup (from rounds)", "95 %", "score", "recovery", "lower bound", "gained"),
    *("lost", "τ", "accepted", "loose", "remarks"),
)


def print_sweep(result: Sweep) -> None:
    """Print everything on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    table = make_table(
        f"{', '.join(result.tasks)}: {len(result.points)} settings on {result.num_search_items:,} "
        f"items, margin {result.margin:g}",
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
            number(point.recovery_lower, "{:.1%}"),
            str(point.paired.gained),
            str(point.paired.lost),
            number(point.mean_acceptance_length, "{:.2f}"),
            number(point.acceptance_rate, "{:.1%}"),
            number(point.loose_share, "{:.2%}"),
            _remarks(point, result),
        )
    console.print(table)
    saving = result.saving
    console.print(
        f"{saving.rounds_decoded:,} rounds were decoded instead of "
        f"{saving.rounds_if_none_had_stopped:,} that every setting alone on all items would have "
        f"taken: {saving.share_saved:.0%} saved.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(result.conclusion, highlight=False, soft_wrap=True, markup=False)
    if result.heldout is not None:
        console.print("\nHeld-out items:")
        print_comparison(result.heldout)


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
