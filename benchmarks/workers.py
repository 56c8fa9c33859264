"""Worker processes that decode by turns, each with an engine of its own, maybe of another
checkout or environment.  Lines of JSON go over their pipes; who waits for one computes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Worker:
    """A process that answers one question at a time."""

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], folder: Path
    ) -> None:
        """Start it in a folder, and wait until its models are loaded.

        Args:
            command: a script that calls `serve`.
            environment: what it has besides this process's.
            folder: where it runs.
        """
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment),
        )
        self.loaded = self._answer()  # what it tells of itself

    def ask(self, question: object) -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process: it ends with its input."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise SystemExit(f"a process ended early: {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer


# What a worker tells of itself, and what answers its questions.
Loaded = tuple[object, Callable[[Any], object]]


def serve(load: Callable[[], Loaded]) -> None:
    """A worker's side: a line when it is ready, then one for each line of its input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    told, answer = load()
    print(json.dumps(told), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
