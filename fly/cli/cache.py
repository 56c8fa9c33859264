"""The verb `fly cache`, which shows or clears the steps that were compiled."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fly.terminal import say

MIB = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Print where compiled steps are kept, how many and how large; or remove them.

    Raises:
        SystemExit: from the argument parser.
    """
    parser = argparse.ArgumentParser(
        prog="fly cache",
        description="Show where compiled forwards are kept, how many and how large they are. They "
        "are compiled anew where they are missing.",
    )
    parser.add_argument("--clear", action="store_true", help="remove all of them")
    given = parser.parse_args(arguments)

    from fly.engine.model.step_packages import StepPackages

    packages = StepPackages()
    size = packages.num_bytes / MIB
    if given.clear:
        say(f"{packages.folder}: removed {packages.clear()} compiled steps, {size:.1f} MiB")
        return 0
    limit = packages.max_bytes / MIB
    count = len(packages.entries())
    say(f"{packages.folder}: {count} compiled steps, {size:.1f} MiB of at most {limit:,.0f}")
    return 0
