"""The process that executes programs, apart from models and threads.  `python -m fly.execution.pool
FOLDER` reads order.json in the folder and appends verdicts to verdicts.jsonl as they come."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fly.execution import processes
from fly.execution.executor import READY, num_at_once
from fly.execution.program import keep

ENDED_KEEPER = "failed: it ended, or stopped, the process that watched it"


@dataclass
class Pool:
    """Keepers, so many at once, and the file that all verdicts go to.

    Every program has a keeper, a process between it and this one, so that a program that kills its
    parent ends its own keeper.
    """

    folder: Path
    time_limit: float
    grace: float  # seconds that ending a program's processes may take
    num_processes: int | None  # that the user of the programs may have
    verdicts: int  # descriptor
    keepers: dict[int, tuple[int, float]] = field(default_factory=dict)  # pid: index, deadline

    def run(self, items: Mapping[str, Mapping[str, str]], num: int) -> None:
        """Run all programs, `num` at a time."""
        waiting = deque(items.items())
        while waiting or self.keepers:
            while waiting and len(self.keepers) < num:
                index, item = waiting.popleft()
                self._start(int(index), item)
            if not self._reap():
                self._end_late()
                time.sleep(processes.POLL_S)

    def _start(self, index: int, item: Mapping[str, str]) -> None:
        own, pid = os.getpid(), os.fork()
        if pid:
            deadline = time.monotonic() + self.time_limit + self.grace
            self.keepers[pid] = index, deadline
            return
        code = 1
        try:
            self.keepers.clear()
            processes.watch_over_descendants(own)
            verdict = keep(item, self.folder, self.time_limit, self.num_processes)
            self._write(index, verdict)
            code = 0
        except Exception:
            traceback.print_exc()  # there will be no verdict, and this is why
            raise
        finally:
            processes.end_children(self.grace)
            os._exit(code)

    def _reap(self) -> bool:
        """Take note of a process that has ended; False where none has."""
        pid, status = os.waitpid(-1, os.WNOHANG) if self.keepers else (0, 0)
        if pid in self.keepers:
            index, _ = self.keepers.pop(pid)
            if os.WIFSIGNALED(status):
                self._write(index, ENDED_KEEPER)
                # What it watched is now this process's.
                processes.end_children(self.grace, spared=self.keepers)
        return bool(pid)

    def _end_late(self) -> None:
        """A keeper that does not end was stopped."""
        for pid, (_, deadline) in self.keepers.items():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)

    def _write(self, index: int, verdict: str) -> None:
        """In one piece, as several processes append to the file."""
        os.write(self.verdicts, json.dumps([index, verdict]).encode("ascii") + b"\n")


def main(arguments: Collection[str]) -> None:
    """Run what order.json asks for."""
    [name] = arguments
    folder = Path(name)
    order: dict[str, Any] = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    verdicts = os.open(folder / "verdicts.jsonl", flags, 0o600)
    processes.watch_over_descendants(order["parent"])
    pool = Pool(folder, order["time_limit"], order["grace"], processes.process_limit(), verdicts)
    os.write(verdicts, READY.encode() + b"\n")
    try:
        pool.run(order["items"], num_at_once())
    finally:
        processes.end_children(order["grace"])


if __name__ == "__main__":
    main(sys.argv[1:])
