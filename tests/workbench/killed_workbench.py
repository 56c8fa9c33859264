"""Runs `fly compare` or `fly sweep` over and over with `--resume` and kills each run at a random
point; then lets one finish, and one more in a folder of its own that nobody kills.

Started by test_compare_resume.py and test_sweep_resume.py with a plan in JSON; writes report.json
into the plan's folder.  As in tests/harness/killed_runs.py every run is a forked child; here the
models are the parent's, too.
"""

import inspect
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from fly.workbench import comparing
from fly.workbench.costs import MeasuredRounds, PriceTable
from fly.workbench.options import Options, make_plan
from fly.workbench.plan import Plan
from fly.workbench.sweeps import search as searching
from tests.cli.without_defaults import defaults
from tests.harness.killed_runs import MAX_RUNS_A_KILL, Runs

KILLED, WHOLE = "killed", "whole"


class FolderRuns(Runs):
    """Runs whose finished work lies in an output folder."""

    def journal(self) -> bytes:
        files = sorted((self.folder / KILLED).rglob("answers.jsonl"))
        return b"".join(file.read_bytes() for file in files)


def fix_what_clocks_decide() -> None:
    """Which plain decoding is the fastest and what a round costs differ from run to run, and with
    them what takes part in a comparison and which points of a sweep stop."""

    def search(methods, make, ready):
        return {method.name: 1.0 for method in methods} | {"target:batch_size=5": 2.0}

    def calibrate(target, drafting):
        counted = {name: {k: priced(items, 1 + k / 9) for k, items in by_k.items()}
                   for name, by_k in drafting.items()}  # fmt: skip
        return PriceTable(priced(target, 1.0), counted)

    def priced(items: Sequence, seconds: float) -> MeasuredRounds:
        rows = [
            (one.rounds + one.plain, seconds * (one.rounds + one.plain), one.prompt_tokens, 0.1)
            for one in items
        ]
        return MeasuredRounds(np.array(rows, dtype=np.float64))

    comparing.search = search
    searching.PriceTable.calibrate = staticmethod(calibrate)


def skip_warm_up() -> None:
    """It matters to times alone, and every resumed run would pay for it."""
    comparing.warm_up = searching.warm_up = lambda engines, ready: None


def execute(plan: dict) -> list[dict]:
    """Kills until all have hit; then a run to the end; then one in a folder of its own."""
    torch.set_num_threads(1)
    assert "include_defaults" in inspect.signature(TaskManager.__init__).parameters
    TaskManager.__init__.__defaults__ = defaults()
    tqdm.monitor_interval = 0  # no thread, which a forked child would miss
    fix_what_clocks_decide()
    skip_warm_up()
    given = Options(model_args=plan["model_args"], harness={}, batch_size=plan["batch_size"])
    lm = make_plan(given).load_models()
    Plan.load_models = lambda self: lm

    folder = Path(plan["folder"])
    runs = FolderRuns(folder, plan["num_lines"], random.Random(plan["seed"]), plan["step"])
    killed = [*plan["arguments"], "--resume", "--output_path", str(folder / KILLED)]
    for kind in plan["kills"]:
        num_tries = 1
        while not runs.run(killed, kind) and num_tries < MAX_RUNS_A_KILL:
            kind, num_tries = "loading", num_tries + 1
    runs.run(killed, "none")
    runs.run([*plan["arguments"], "--output_path", str(folder / WHOLE)], "none")
    return runs.report


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    Path(plan["folder"], "report.json").write_text(json.dumps(execute(plan)))
