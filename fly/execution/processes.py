"""Adoption and ending of all processes below this one.  Linux gives orphans to the nearest ancestor
that asked for them (a subreaper), so a process that left group and session is ended, too.
Elsewhere a process that leaves its group gets away."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

POLL_S = 0.002
END_S = 3.0  # for ending what a program has started
SPARE_PROCESSES = 64  # that programs may have beside those that the user has already

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_PROC = Path("/proc")


def watch_over_descendants(parent: int) -> None:
    """Make this process the parent of all orphans below it, and end it when `parent` has ended.

    It is then asked to end (SIGTERM), which raises SystemExit, so that what it has to clean up is
    cleaned up.
    """
    signal.signal(signal.SIGTERM, _leave)
    _prctl(_SET_CHILD_SUBREAPER, 1)
    end_with_parent(parent, signal.SIGTERM)


def end_with_parent(parent: int, by: signal.Signals) -> None:
    """Let the system send this process a signal when its parent ends; Linux only."""
    _prctl(_SET_PARENT_DEATH_SIGNAL, int(by))
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), by)


def end_children(longest_s: float, spared: Collection[int] = ()) -> None:
    """Kill children, and on Linux all below them, until none is left but those spared.

    Each that is killed makes its own children this process's, which the next turn kills.  Ends
    after `longest_s` seconds in any case: root may fork faster than it is killed.
    """
    deadline = time.monotonic() + longest_s
    while time.monotonic() < deadline:
        victims = [pid for pid in _children() if pid not in spared]
        for pid in victims:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not victims:
            return
        for pid in victims:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(POLL_S)


def process_limit() -> int | None:
    """How many processes and threads the user may have while programs run, for RLIMIT_NPROC, which
    counts all of a user's: those that are there, and some.  It does not bind root.

    None where they cannot be counted, which is where there is no /proc: the system's own limit
    holds.
    """
    user, total = os.getuid(), 0
    for folder in _processes():
        with suppress(OSError):
            if folder.stat().st_uid == user:
                total += len(os.listdir(folder / "task"))
    return total + SPARE_PROCESSES if total else None


def _children() -> list[int]:
    """Children of this process, those among them that have ended and were not waited for."""
    own, found = str(os.getpid()), []
    for folder in _processes():
        with suppress(OSError):
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[1] == own:
                found.append(int(folder.name))
    return found


def _processes() -> list[Path]:
    """Folders of /proc; none where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return []
    return [_PROC / name for name in os.listdir(_PROC) if name.isdecimal()]


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up is not to be cut short
    raise SystemExit(128 + number)
