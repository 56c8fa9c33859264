"""`fly sweep`: which setting is the fastest that keeps the score?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from fly.cli import interrupts
from fly.cli.capturing import capture
from fly.cli.compare import ProgressBar, add_flags, command_line, options_of, tell_files
from fly.errors import ConfigError

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
    parser = argparse.ArgumentParser(
        prog="fly sweep",
        description="Try a grid of settings and verify the best one on items it was not chosen on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
    add_flags(parser)
    parser.add_argument(
        "--trace",
        action="store_true",
        help="keep the rounds of held-out answers for `fly report`",
    )
    own, rest = parser.parse_known_args(list(arguments))
    grid = _grid(own)
    asked = capture(rest, "sweep")
    from fly.cli.sweep_table import print_sweep
    from fly.evaluation.sweeping import make_sweep_plan, run

    given = options_of(asked, own, command_line("sweep", arguments))
    plan = make_sweep_plan(given, grid, own.heldout)
    kept = partial(interrupts.in_workbench, asked.output_path)
    with interrupts.telling(kept), ProgressBar() as bar:
        result = run(plan, bar.start, bar.advance)
    print_sweep(result)
    tell_files(asked.output_path)
    return 0


def _grid(own: argparse.Namespace) -> dict[str, list[object]]:
    """The values to try by key."""
    from fly.evaluation.grid import parse_grid, read_grid

    if bool(own.grid) == bool(own.grid_file):
        raise ConfigError(
            "fly sweep: give the settings to try by --grid or by --grid-file, one of them",
            fix="--grid spd_k=5,10,15 win_len=4,6",
        )
    return read_grid(own.grid_file) if own.grid_file else parse_grid(own.grid)
