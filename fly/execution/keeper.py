"""The process between a program and the pool.  It starts the program, waits a limited time, ends
all that it has started, and reports what became of it."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fly.execution import processes
from fly.execution.program import LONGEST_VERDICT, run_program

TIMED_OUT = "timed out"


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
        time.sleep(processes.POLL_S)
    return None


def _end(pid: int, *, has_ended: bool) -> None:
    """End a program's group in one go, which no fork escapes, then those that left the group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not has_ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    processes.end_children(processes.END_S)


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
