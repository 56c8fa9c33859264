"""`accelerate launch --num_processes N` on a CPU.  accelerate starts one process there, whatever N
is (more only through MPI), so those asked for are to be started by us.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Set for each process by every launcher that starts all of them.
_RANKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
# Both set by accelerate where it was asked for several processes; the second by nobody else.
_ASKED = ("MASTER_PORT", "ACCELERATE_MIXED_PRECISION")


def processes_to_start() -> int:
    """How many processes `accelerate launch` was asked for and left to us; 1 in any other case.

    Its environment does not name the number, so it is read from its command line.
    """
    ranked = any(name in os.environ for name in _RANKED)
    if ranked or not all(name in os.environ for name in _ASKED):
        return 1
    from fly.backend.processes import on_cpu

    if not on_cpu():
        return 1
    number = num_processes(_launcher_command())
    if number is None:
        logger.warning(
            "accelerate was asked for several processes and has started one; name the number on "
            "its command line: accelerate launch --num_processes N -m fly"
        )
    return number or 1


def num_processes(command: Sequence[str]) -> int | None:
    """The value of `--num_processes` on the command line of an `accelerate launch`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    known, _ = parser.parse_known_args(list(command))
    number: int | None = known.num_processes
    return number


def _launcher_command() -> list[str]:
    import psutil  # accelerate needs it, too

    parent = psutil.Process().parent()
    return [] if parent is None else list(parent.cmdline())
