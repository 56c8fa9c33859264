"""A comparison that is killed with SIGKILL at 20 random points and resumed each time ends as one
that nobody interrupted."""

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fly.formats.answers import Answer, Block
from fly.formats.comparison import Comparison

ROOT = Path(__file__).parent.parent.parent
SEED = 7
NUM_KILLS, NUM_ITEMS, BATCH = 20, 10, 4
# The target at the batch that the search for the fastest plain decoding finds is the control.
METHODS = ["target", "native", "fly", "target:batch_size=5"]
MODEL_ARGS = {"config_path": str(ROOT / "fly_config" / "demo.json"), "device": "cpu"}
# What a request needed of its batch: seconds, and draft forwards, which its neighbours may prolong.
OF_THE_BATCH = ("seconds_", "draft_forwards")
OF_THE_CLOCK = ("speed", "seconds_by_phase", "peak_memory_bytes", "cost", "shares")

pytestmark = pytest.mark.slow


def run_killed(
    folder: Path, arguments: list[str], kills: list[str], num_lines: int, step: int = 3
) -> list[dict]:
    """The report of killed_workbench.py."""
    plan = {
        "folder": str(folder),
        "arguments": [
            *arguments,
            "--model_args",
            ",".join(f"{key}={value}" for key, value in MODEL_ARGS.items()),
            *f"--tasks fly_demo_math --batch_size {BATCH}".split(),
        ],
        "model_args": MODEL_ARGS,
        "batch_size": BATCH,
        "kills": kills,
        "num_lines": num_lines,
        "seed": SEED,
        "step": step,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.workbench.killed_workbench", json.dumps(plan)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def answers_of(folder: Path) -> list[Answer]:
    return [Answer(**line) for line in read_lines(folder) if line.get("kind") == "answer"]


def without_clock(result: dict[str, Any]) -> dict[str, Any]:
    """A comparison's record less what differs between runs on one machine."""
    kept = {key: value for key, value in result.items() if key not in ("environment", "notes")}
    kept["tasks"] = [
        task
        | {
            "methods": [
                {key: value for key, value in method.items() if key not in OF_THE_CLOCK}
                for method in task["methods"]
            ]
        }
        for task in result["tasks"]
    ]
    return kept


def comparable(answer: Answer) -> dict[str, Any]:
    statistics = {
        name: value
        for name, value in answer.statistics.items()
        if not name.startswith(OF_THE_BATCH)
    }
    return answer.model_dump() | {"statistics": statistics}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> SimpleNamespace:
    """The report of all runs, and the folders of the killed one and of the one left alone."""
    draw = random.Random(SEED)
    kills = ["loading"] * 2 + ["decoding"] * 10 + ["round"] * 3 + ["writing"] * 5
    draw.shuffle(kills)
    assert len(kills) == NUM_KILLS
    folder = tmp_path_factory.mktemp("compare")
    arguments = ["compare", "--methods", "target,native,fly", "--limit", str(NUM_ITEMS)]
    report = run_killed(folder, arguments, kills, 1 + NUM_ITEMS * len(METHODS))
    return SimpleNamespace(report=report, killed=folder / "killed", whole=folder / "whole")


def test_all_kills_hit_and_the_rest_ended_well(runs):
    assert sum(run["killed"] for run in runs.report) >= NUM_KILLS
    assert [run["exit_code"] for run in runs.report[-2:]] == [0, 0], runs.report[-2]["log"]
    torn = [run for run in runs.report if run["journal"] and not run["journal"].endswith("\n")]
    assert torn  # some lines were half written
    reached = {run["journal"].count("\n") for run in runs.report if run["killed"]}
    assert len(reached) >= NUM_KILLS // 2


def test_nothing_finished_was_lost(runs):
    for before, after in zip(runs.report, runs.report[1:-1], strict=False):
        whole = before["journal"][: before["journal"].rfind("\n") + 1]
        assert after["journal"].startswith(whole)


def test_nothing_finished_was_decoded_twice(runs):
    answers = answers_of(runs.killed)
    counts = Counter((one.method, one.doc_id, one.idx, one.repeat) for one in answers)
    assert set(counts.values()) == {1}
    assert Counter(one.method for one in answers) == dict.fromkeys(METHODS, NUM_ITEMS)


def test_answers_and_counters_are_those_of_a_run_left_alone(runs):
    killed, whole = (
        {(one.method, one.doc_id): comparable(one) for one in answers_of(folder)}
        for folder in (runs.killed, runs.whole)
    )
    assert killed == whole


def test_results_are_those_of_a_run_left_alone(runs):
    killed, whole = (
        json.loads((folder / "compare.json").read_text()) for folder in (runs.killed, runs.whole)
    )
    assert without_clock(killed) == without_clock(whole)
    assert whole["notes"] == []
    items = [(folder / "items.jsonl").read_text() for folder in (runs.killed, runs.whole)]
    assert items[0] == items[1]
    scores = {m["score"]["value"] for m in whole["tasks"][0]["methods"]}
    assert scores - {0.0}  # there was something to lose


def test_interrupted_blocks_are_told_and_not_timed(runs):
    result = Comparison.model_validate_json((runs.killed / "compare.json").read_text())
    kept = [Block(**line) for line in read_lines(runs.killed) if "block" in line]
    timed = Counter(block.method for block in kept)
    num_blocks = NUM_ITEMS // BATCH
    told = dict.fromkeys(METHODS, 0)
    for note in result.notes:
        found = re.fullmatch(
            rf"fly_demo_math, (\S+): (\d+) of {num_blocks} blocks were interrupted and are not "
            "timed",
            note,
        )
        assert found, note
        told[found[1]] = int(found[2])
    assert any(told.values())
    for method in result.tasks[0].methods:
        assert told[method.name] == num_blocks - timed[method.name]
        assert method.speed.num_blocks == timed[method.name]
        own = [block.seconds for block in kept if block.method == method.name]
        assert method.speed.seconds == pytest.approx(sum(own))
        assert (method.speed.tokens_per_s is None) == (not own)
