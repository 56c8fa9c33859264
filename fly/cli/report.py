"""The verb `fly report FOLDER`, which writes one HTML file about results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fly.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Write the page and print its path.

    Raises:
        FLyError: see `write_report`.
        SystemExit: from the argument parser.
    """
    parser = argparse.ArgumentParser(
        prog="fly report",
        description="Write one self-contained HTML file: verdicts, plots, and every token with "
        "where it came from.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        help="what `fly compare`, `fly sweep` or `fly run --trace` wrote to (--output_path)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: FOLDER/report.html)"
    )
    given = parser.parse_args(arguments)

    from fly.report import write_report

    say(str(write_report(given.folder, given.output)))
    return 0
