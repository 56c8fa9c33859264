"""The verb `fly cache`, which shows or clears what was compiled and measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fly.terminal import say

MIB = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Print where compiled steps and gains of packed weights are kept; or remove them.

    Raises:
        SystemExit: from the argument parser.
    """
    parser = argparse.ArgumentParser(
        prog="fly cache",
        description="Show where compiled forwards and measured gains of packed weights are kept, "
        "and how much of each. They are made anew where they are missing.",
    )
    parser.add_argument("--clear", action="store_true", help="remove all of them")
    given = parser.parse_args(arguments)

    from fly.engine.model.packing_gains import default_folder
    from fly.engine.model.step_packages import StepPackages

    measured = sorted(default_folder().glob("*.json"))
    packages = StepPackages()
    size = packages.num_bytes / MIB
    if given.clear:
        for file in measured:
            file.unlink(missing_ok=True)
        say(f"{packages.folder}: removed {packages.clear()} compiled steps, {size:.1f} MiB")
        say(f"{default_folder()}: removed {len(measured)} measured gains of packed weights")
        return 0
    limit = packages.max_bytes / MIB
    count = len(packages.entries())
    say(f"{packages.folder}: {count} compiled steps, {size:.1f} MiB of at most {limit:,.0f}")
    say(f"{default_folder()}: {len(measured)} measured gains of packed weights")
    return 0
