"""`accelerate launch --num_processes 2 -m fly` on a CPU: two processes, and what comes out is that
of one.  Nobody else's program is run again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fly.cli import launch, main
from fly.errors import ConfigError
from fly.harness import processes
from tests.cli.test_harness import results_in

NAMES = ["toy_text", "toy_choice"]
NUM_ITEMS = 5  # odd, so that one process has fewer
ASKED = {"MASTER_PORT": "29500", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}


def accelerate_launch(
    folder: Path, tasks: Path, model_args: str, *more: str
) -> subprocess.CompletedProcess:
    """A launch of two processes that writes to `folder`/out."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command = ["-m", "tests.cli.without_defaults", "run", "--model", "hf"]
    command += ["--model_args", model_args]
    command += ["--include_path", str(tasks), "--tasks", ",".join(NAMES), "--device", "cpu"]
    command += ["--output_path", str(folder / "out"), "--log_samples", *more]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [*accelerate, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def launched(pair, tasks, tmp_path_factory) -> tuple[Path, str]:
    """Folder and standard output of a launch of two processes that keep journals."""
    folder = tmp_path_factory.mktemp("launched")
    model_args = f"config_path={pair.config},acceptance=native"
    done = accelerate_launch(folder, tasks, model_args, "--use_cache", str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


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
    folder, printed = launched[0] / "out", launched[1]
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
    folder = launched[0] / "out"
    block = results_in(folder)["speculative_decoding"]
    assert block["tasks"]["toy_text"]["requests"] == block["overall"]["requests"] == NUM_ITEMS
    [file] = folder.rglob("speculative_toy_text_*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["doc_id"] for line in lines) == list(range(NUM_ITEMS))
    emitted = sum(line["counters"]["emitted"] for line in lines)
    assert emitted == block["overall"]["counters"]["emitted"]


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(launched, run_toy, pair, tmp_path, capsys):
    """Each kept a journal of its share; the one reads both, and decodes what neither has."""
    cache = tmp_path / "cache"
    cache.mkdir()
    finished = []
    for file in launched[0].glob("cache*.jsonl"):
        header, *lines = file.read_text().splitlines(keepends=True)
        finished += lines
        kept = lines[:-1] if "rank0" in file.name else lines
        (cache / file.name).write_text("".join([header, *kept]))
    assert len(list(cache.iterdir())) == 2
    assert len(finished) == NUM_ITEMS
    given = ["--model_args", f"config_path={pair.config},acceptance=native"]
    more = ["--output_path", tmp_path / "out", "--use_cache", cache / "cache"]
    assert run_toy("--model", "hf", *given, *more, names=NAMES) == 0
    resumed, whole = results_in(tmp_path / "out"), results_in(launched[0] / "out")
    assert resumed["results"] == whole["results"]
    told = f"{NUM_ITEMS - 1} of {NUM_ITEMS} requests were decoded by earlier runs"
    assert told in capsys.readouterr().out
    keys = [
        json.loads(line)["key"]
        for file in cache.glob("*.jsonl")
        for line in file.read_text().splitlines()[1:]
    ]
    assert sorted(keys) == sorted(json.loads(line)["key"] for line in finished)


@pytest.mark.slow
def test_another_model_is_evaluated_once(pair, tasks, tmp_path):
    """lm-eval's own backend would not join the processes: each would evaluate everything."""
    done = accelerate_launch(tmp_path, tasks, f"pretrained={pair.target}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("|exact_match|") == 1
    assert results_in(tmp_path / "out")["config"]["model"] == "hf"


@pytest.mark.slow
def test_wrong_settings_are_told_once(pair, tasks, tmp_path):
    done = accelerate_launch(tmp_path, tasks, f"config_path={pair.config},spd_k=0")
    assert done.returncode != 0
    assert done.stderr.count("fly: error: ") == 1


@pytest.mark.slow
def test_fewer_documents_than_processes(pair, tasks, tmp_path):
    """lm-eval fails in the processes that have none, and the others wait for them."""
    done = accelerate_launch(tmp_path, tasks, f"config_path={pair.config}", "--limit", "1")
    assert done.returncode != 0
    words, _, own = done.stderr.partition("Traceback")
    assert "task 'toy_text' has 1 documents to ask about, but there are 2 processes" in words
    assert "accelerate/commands/launch.py" in own  # which so reports any program that fails
    assert "Traceback" not in own


LAUNCH = ["accelerate", "launch"]
MODULE = ["python", "-m", "accelerate.commands.launch"]
COMMANDS = {
    "underscore": ([*LAUNCH, "--num_processes", "3", "-m", "fly", "run"], 3),
    "hyphen": (["python", *LAUNCH, "--cpu", "--num-processes=4", "-m", "fly"], 4),
    "path": (["/x/python3.11", "/x/bin/accelerate", "launch", "--num_processes", "2", "y.py"], 2),
    "one word": (["accelerate-launch", "--num_processes", "2", "-m", "fly"], 2),
    "module": ([*MODULE, "--num_processes", "2", "-m", "fly"], 2),
    "options of Python": (
        ["python", "-u", "-X", "dev", *MODULE[1:], "--num_processes", "2", "-m", "fly"],
        2,
    ),
    "verb of the module": (
        ["python", "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes=2", "y"],
        2,
    ),
    "none": ([*LAUNCH, "--num_processes", "0", "-m", "fly"], 0),
    "in a file": ([*LAUNCH, "--config_file", "x.yaml", "-m", "fly"], None),
    "behind the program": ([*LAUNCH, "-m", "fly", "--num_processes", "3"], None),
    "behind a script": ([*LAUNCH, "x.py", "--num_processes=3"], None),
    "no number": ([*LAUNCH, "--num_processes", "auto", "-m", "fly"], None),
    "another verb": (["accelerate", "test", "--num_processes", "3", "-m", "fly"], None),
    "another program": (["python", "x.py", *LAUNCH, "--num_processes", "3", "-m", "fly"], None),
    "another module": (["python", "-m", "x", *LAUNCH, "--num_processes", "3", "y"], None),
    "a shell": (["bash", "-c", "accelerate launch --num_processes 3 -m fly"], None),
    "gone": ([], None),
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables that launchers set; the others are unset."""

    def set_to(variables: dict[str, str], command: list[str]) -> None:
        for name in (*launch._RANKED, *ASKED, "MASTER_ADDR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(launch, "_launcher_command", lambda: command)

    return set_to


@pytest.mark.parametrize(("command", "number"), COMMANDS.values(), ids=COMMANDS)
def test_number_of_processes(environment, caplog, capfd, command, number):
    environment(ASKED, command)
    options = launch.launch_options(command)
    assert (options and options.num_processes) == number
    assert launch.processes_to_start() == (number or 1)
    assert ("--num_processes N" in caplog.text) == (number is None)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    "variables",
    [{}, ASKED | {"RANK": "0", "WORLD_SIZE": "2"}, {"MASTER_PORT": "29500"}],
    ids=["no launcher", "started by a launcher", "another launcher"],
)
def test_nothing_is_left_to_start(environment, variables):
    environment(variables, COMMANDS["underscore"][0])
    assert launch.processes_to_start() == 1


TWO = ["--num_processes", "2"]
MACHINES = {  # options, address of the first machine, whether that is refused
    "two": ([*TWO, "--num_machines", "2"], "10.0.0.1", True),
    "two, no number": (["--num_machines", "2"], "10.0.0.1", True),
    "in a file": ([*TWO, "--config_file", "x.yaml"], "10.0.0.1", True),
    "one": ([*TWO, "--num_machines", "1"], "10.0.0.1", False),
    "this one": (TWO, "127.0.0.1", False),
    "one process": (["--num_processes", "1"], "10.0.0.1", False),
}


@pytest.mark.parametrize(("options", "address", "refused"), MACHINES.values(), ids=MACHINES)
def test_several_machines_are_refused(environment, options, address, refused):
    environment(ASKED | {"MASTER_ADDR": address}, [*LAUNCH, *options, "-m", "fly"])
    if refused:
        with pytest.raises(ConfigError, match="several machines"):
            launch.processes_to_start()
    else:
        assert launch.processes_to_start() == int(options[1])


@pytest.fixture
def reruns(monkeypatch, environment):
    """How often the program was run again, all told: in how many processes each time."""
    environment(ASKED, COMMANDS["underscore"][0])
    numbers: list[int] = []
    monkeypatch.setattr(processes, "rerun_in", lambda number: numbers.append(number) or 7)
    return numbers


def test_the_command_ends_with_its_processes(reruns, pair, monkeypatch):
    given = ["run", "--model", "hf", "--model_args", f"config_path={pair.config}", "--tasks", "x"]
    monkeypatch.setattr(sys, "argv", ["fly", *given])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, reruns) == (7, [3])


def test_a_script_that_calls_the_command_is_not_run_again(reruns, run_toy, pair, caplog):
    assert run_toy("run", "--model", "hf", "--model_args", f"config_path={pair.config}") == 0
    assert not reruns
    assert "goes on alone" in caplog.text


def test_processes_are_started_after_the_settings_were_checked(reruns, pair, monkeypatch, capsys):
    given = ["--model", "hf", "--model_args", f"config_path={pair.config},spd_k=0", "--tasks", "x"]
    monkeypatch.setattr(sys, "argv", ["fly", *given])
    assert main() == 2
    assert not reruns
    assert "spd_k" in capsys.readouterr().err
