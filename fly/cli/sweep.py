"""The verb `fly sweep`, which finds the fastest safe setting."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fly.cli.compare import add_flags, command_line, options_of, tell_files, verb_parser, watched
from fly.cli.comparison_table import bounds, number, print_comparison
from fly.cli.harness import capture
from fly.errors import ConfigError
from fly.formats.sweep import Point, Sweep
from fly.stats.records import POINT
from fly.terminal import console, make_table, say

_EPILOG = """\
All flags of `fly run` are taken, too: --model_args, --tasks, --limit, --batch_size ...

example:
  fly sweep --model_args config_path=fly_config/demo.json --tasks fly_demo_math --batch_size 32 \\
      --grid spd_k=5,10,15 win_len=4,6,8 entropy_thre=0,0.3 --output_path out/
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        FLyError: the arguments are wrong, or the run cannot go on.
    """
    what = "Try a grid of settings and verify the best one on items it was not chosen on."
    parser = verb_parser("sweep", what, _EPILOG)
    parser.add_argument(
        "--grid", nargs="+", default=[], metavar="KEY=A,B", help="values to try by setting"
    )
    parser.add_argument("--grid-file", help="the same as a JSON or YAML object of lists")
    parser.add_argument(
        "--heldout",
        type=float,
        default=0.5,
        help="share of the items that the search does not see (default: 0.5)",
    )
    add_flags(parser, trace="keep the rounds of held-out answers for `fly report`")
    own, rest = parser.parse_known_args(list(arguments))
    grid = _grid(own)
    asked = capture(rest, "sweep")
    from fly.workbench.sweeps.run import make_sweep_plan, run

    given = options_of(asked, own, command_line("sweep", arguments))
    plan = make_sweep_plan(given, grid, own.heldout)
    with watched(asked.output_path) as bar:
        result = run(plan, bar.start, bar.advance)
    print_sweep(result)
    tell_files(asked.output_path)
    return 0


def _grid(own: argparse.Namespace) -> dict[str, list[object]]:
    """The values to try by key."""
    from fly.workbench.sweeps.grid import parse_grid, read_grid

    if bool(own.grid) == bool(own.grid_file):
        raise ConfigError(
            "fly sweep: give the settings to try by --grid or by --grid-file, one of them",
            fix="--grid spd_k=5,10,15 win_len=4,6",
        )
    return read_grid(own.grid_file) if own.grid_file else parse_grid(own.grid)


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
