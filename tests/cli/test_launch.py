"""`accelerate launch --num_processes 2 -m fly` on a CPU: two processes, and what comes out is that
of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fly.cli import launch
from tests.cli.test_harness import results_in

NAMES = ["toy_text", "toy_choice"]
NUM_ITEMS = 5  # odd, so that one process has fewer
ASKED = {"MASTER_PORT": "29500", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}


@pytest.fixture(scope="module")
def launched(pair, tasks, tmp_path_factory) -> tuple[Path, str]:
    """Folder and standard output of a launch of two processes."""
    folder = tmp_path_factory.mktemp("launched")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command = ["-m", "tests.cli.without_defaults", "run", "--model", "hf"]
    command += ["--model_args", f"config_path={pair.config},acceptance=native"]
    command += ["--include_path", str(tasks), "--tasks", ",".join(NAMES), "--device", "cpu"]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [*accelerate, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def samples_in(folder: Path, task: str) -> dict[int, dict]:
    """The samples of a task by document; lm-eval writes them rank by rank."""
    [file] = folder.rglob(f"samples_{task}_*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["doc_id"] for line in lines) == list(range(NUM_ITEMS))
    return {line["doc_id"]: line for line in lines}


@pytest.mark.slow
def test_two_processes_give_what_one_gives(launched, run_toy, pair, tmp_path):
    given = ["--model_args", f"config_path={pair.config},acceptance=native"]
    more = ["--output_path", tmp_path / "out", "--log_samples"]
    assert run_toy("--model", "hf", *given, *more, names=NAMES) == 0
    folder, printed = launched
    ours, alone = results_in(folder), results_in(tmp_path / "out")
    assert ours["results"] == alone["results"]
    for task, same in (("toy_text", ["filtered_resps", "exact_match"]), ("toy_choice", ["acc"])):
        one, two = samples_in(tmp_path / "out", task), samples_in(folder, task)
        for doc_id, sample in one.items():
            for key in ("doc", "arguments", *same):
                assert two[doc_id][key] == sample[key]
    one, two = samples_in(tmp_path / "out", "toy_choice"), samples_in(folder, "toy_choice")
    for doc_id, sample in one.items():
        scores = [float(score) for score, _ in sample["filtered_resps"]]
        assert [float(score) for score, _ in two[doc_id]["filtered_resps"]] == pytest.approx(
            scores, abs=1e-5
        )
    # Only one process prints and writes (`results_in` has found one file).
    assert printed.count("Speculative decoding") == printed.count("|exact_match|") == 1


@pytest.mark.slow
def test_statistics_are_those_of_all_processes(launched):
    folder, _ = launched
    block = results_in(folder)["speculative_decoding"]
    assert block["tasks"]["toy_text"]["requests"] == block["overall"]["requests"] == NUM_ITEMS
    [file] = folder.rglob("speculative_toy_text_*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["doc_id"] for line in lines) == list(range(NUM_ITEMS))
    emitted = sum(line["counters"]["emitted"] for line in lines)
    assert emitted == block["overall"]["counters"]["emitted"]


COMMANDS = {
    "underscore": (["accelerate", "launch", "--num_processes", "3", "-m", "fly", "run"], 3),
    "hyphen": (["python", "accelerate", "launch", "--cpu", "--num-processes=4", "-m", "fly"], 4),
    "in a file": (["accelerate", "launch", "--config_file", "x.yaml", "-m", "fly"], None),
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables that launchers set; the others are unset."""

    def set_to(variables: dict[str, str]) -> None:
        for name in (*launch._RANKED, *ASKED):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(("command", "number"), COMMANDS.values(), ids=COMMANDS)
def test_number_of_processes(monkeypatch, environment, caplog, command, number):
    environment(ASKED)
    monkeypatch.setattr(launch, "_launcher_command", lambda: command)
    assert launch.num_processes(command) == number
    assert launch.processes_to_start() == (number or 1)
    assert ("--num_processes N" in caplog.text) == (number is None)


@pytest.mark.parametrize(
    "variables",
    [{}, ASKED | {"RANK": "0", "WORLD_SIZE": "2"}, {"MASTER_PORT": "29500"}],
    ids=["no launcher", "started by a launcher", "another launcher"],
)
def test_nothing_is_left_to_start(monkeypatch, environment, variables):
    environment(variables)
    monkeypatch.setattr(launch, "_launcher_command", lambda: COMMANDS["underscore"][0])
    assert launch.processes_to_start() == 1
