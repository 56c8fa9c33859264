"""Runs the `fly` command over and over and kills each run at a random point; then lets one finish.

Started by test_resume.py with a plan in JSON; writes report.json into the plan's folder.  Every run
is a forked child, which spares importing torch and lm-eval each time; all that follows
`fly.cli.main` is its own.  Some are killed from outside when files say that it is time, some kill
themselves where nobody outside could aim: in a round, in the middle of writing a line.
"""

import inspect
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Imported here so that no child has to: what a run would import on its way, too.
import datasets.packaged_modules.json.json  # noqa: F401
import lm_eval.evaluator  # noqa: F401
import pytablewriter  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from lm_eval.tasks import TaskManager

import fly.harness.lm  # noqa: F401
from fly.cli import main
from fly.engine import SpeculativeDecoder, decoder
from fly.harness import journal as lines

POLL_S = 0.001
STUCK_S = 200  # far above what a run takes
THREADS_END_S = 30
MAX_RUNS_A_KILL = 5  # a run may end before its kill comes; it is then not counted


@dataclass
class Runs:
    """The runs of one plan, and what was found after each."""

    folder: Path
    num_requests: int
    random: random.Random
    step: int = 3  # at most so many lines from one kill to the next
    report: list[dict] = field(default_factory=list)

    def journal(self) -> bytes:
        files = list(self.folder.glob("cache_*_rank0.jsonl"))
        return files[0].read_bytes() if files else b""

    def num_finished(self) -> int:
        return max(0, self.journal().count(b"\n") - 1)

    def run(self, arguments: list[str], kind: str) -> bool:
        """One run, killed as `kind` says, appended to the report; whether the kill hit."""
        log = self.folder / f"log_{len(self.report)}.txt"
        kill_oneself, is_due = self.kill_point(kind)
        # A child of a process with threads may wait forever for a lock that one of them held.
        # Those that loaded the weights may still be ending.
        begin = time.monotonic()
        while threading.active_count() > 1 and time.monotonic() - begin < THREADS_END_S:
            time.sleep(POLL_S)
        assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
        pid = os.fork()
        if pid == 0:
            run_child(arguments, log, kill_oneself)
        status, start = None, time.monotonic()
        while status is None:
            waited, code = os.waitpid(pid, os.WNOHANG)
            if waited:
                status = code
            elif is_due():
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
            else:
                time.sleep(POLL_S)
                if time.monotonic() - start > STUCK_S:
                    os.kill(pid, signal.SIGKILL)
                    raise TimeoutError(log.read_text())
        asked = log.with_suffix(".asked")
        # One that was killed between making the file and writing to it left it empty.
        told = asked.read_text() if asked.exists() else ""
        self.report.append(
            {
                "kind": kind,
                "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
                "exit_code": os.waitstatus_to_exitcode(status),
                "asked": int(told) if told else None,
                "journal": self.journal().decode("ascii"),
                "log": log.read_text(),
            }
        )
        return self.report[-1]["killed"]

    def kill_point(self, kind: str) -> tuple[Callable[[], None], Callable[[], bool]]:
        """What the child does to kill itself, and whether it is to be killed from outside now."""
        draw = self.random
        never, nothing = (lambda: False), (lambda: None)
        if kind == "writing":
            line_number, fraction = draw.randint(1, 3), draw.random()
            return lambda: die_while_writing(line_number, fraction), never
        if kind == "round":
            num_rounds = draw.randint(1, 8)
            return lambda: die_in_round(num_rounds), never
        goal = min(self.num_finished() + draw.randint(1, self.step), self.num_requests)
        conditions = {
            "none": (never, 0.0),
            "loading": (lambda: True, 1.0),
            "decoding": (lambda: self.num_finished() >= goal, 0.02),
            "scoring": (lambda: self.num_finished() == self.num_requests, 0.2),
            "saving": (lambda: any((self.folder / "killed").rglob("results_*.json")), 0.02),
        }
        condition, longest_s = conditions[kind]
        return nothing, delayed(condition, draw.uniform(0, longest_s))


def delayed(condition: Callable[[], bool], delay_s: float) -> Callable[[], bool]:
    """True from `delay_s` after the condition was first seen to hold."""
    since: list[float] = []

    def is_due() -> bool:
        if not since and condition():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= delay_s

    return is_due


def run_child(arguments: list[str], log: Path, kill_oneself: Callable[[], None]) -> None:
    """The command, in the child; does not return."""
    code = 70
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        note_what_is_decoded(log.with_suffix(".asked"))
        kill_oneself()
        code = main(arguments)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def note_what_is_decoded(file: Path) -> None:
    """Write down how many requests the engine is asked for."""
    original = SpeculativeDecoder.decode

    def decode(self, requests, on_round=None, **options):
        file.write_text(str(len(requests)))
        return original(self, requests, on_round, **options)

    SpeculativeDecoder.decode = decode


def die_while_writing(line_number: int, fraction: float) -> None:
    """Let only a part of the n-th write to the journal come through, and be killed there."""
    original, count = lines.os.write, 0

    def write(fd, line):
        nonlocal count
        count += 1
        if count < line_number:
            return original(fd, line)
        original(fd, line[: int(len(line) * fraction)])
        os.kill(os.getpid(), signal.SIGKILL)

    lines.os.write = write


def die_in_round(number: int) -> None:
    """Be killed at the end of the n-th round, before what it finished is taken out."""
    original, count = decoder.run_round, 0

    def run_round(*arguments):
        nonlocal count
        count += 1
        original(*arguments)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    decoder.run_round = run_round


def execute(plan: dict) -> list[dict]:
    """Kills until all have hit; then a run to the end; then one from the start, without cache."""
    torch.set_num_threads(1)
    order = list(inspect.signature(TaskManager.__init__).parameters)
    defaults = list(TaskManager.__init__.__defaults__)
    defaults[order.index("include_defaults") - 1] = False  # listing lm-eval's tasks takes seconds
    TaskManager.__init__.__defaults__ = tuple(defaults)

    folder = Path(plan["folder"])
    runs = Runs(folder, plan["num_requests"], random.Random(plan["seed"]))
    cached = [*plan["arguments"], "--use_cache", str(folder / "cache"), "--output_path"]
    for kind in plan["kills"]:
        num_tries = 1
        while not runs.run([*cached, str(folder / "killed")], kind) and num_tries < MAX_RUNS_A_KILL:
            kind, num_tries = "loading", num_tries + 1
    runs.run([*cached, str(folder / "resumed")], "none")
    runs.run([*plan["arguments"], "--output_path", str(folder / "uninterrupted")], "none")
    return runs.report


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    Path(plan["folder"], "report.json").write_text(json.dumps(execute(plan)))
