"""A run under `--use_cache`, killed with SIGKILL at 20 random points and started again, ends as one
that nobody interrupted."""

import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaForCausalLM

from fly.harness import FLyLM
from tests.harness import pairs

ROOT = Path(__file__).parent.parent.parent
SEED = 20
NUM_KILLS = 20
NUM_DOCS, REPEATS = 20, 2
NUM_REQUESTS = NUM_DOCS * REPEATS
# What a request needed of its batch: seconds, and draft forwards, which its neighbours may prolong.
OF_THE_BATCH = ("seconds_", "draft_forwards")


@pytest.fixture(scope="module")
def config(pair, tmp_path_factory) -> Path:
    """The pair's target with a draft that is often right: the target, slightly disturbed."""
    folder = tmp_path_factory.mktemp("near")
    draft = LlamaForCausalLM.from_pretrained(pair.target)
    torch.manual_seed(SEED)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    draft.save_pretrained(folder / "draft")
    pairs.byte_tokenizer().save_pretrained(folder / "draft")
    return pairs.save_config(
        folder / "near.json", pair.target, draft_model_path=str(folder / "draft")
    )


@pytest.fixture(scope="module")
def task(config, tmp_path_factory) -> Path:
    """A task of which the pair solves every second document, so that answers move the table."""
    folder = tmp_path_factory.mktemp("resume") / "tasks"
    folder.mkdir()
    lm = FLyLM(config_path=str(config), device="cpu", batch_size=4)
    prompts = [f"Item {number}, say:" for number in range(NUM_DOCS)]
    gen_kwargs = {"until": ["\n"], "do_sample": False, "max_gen_toks": 24}
    answers = lm.generate_until(
        [Instance("", {}, (prompt, gen_kwargs), 0, ("", n, 1)) for n, prompt in enumerate(prompts)],
        disable_tqdm=True,
    )
    items = [
        {"question": prompt, "answer": answer if number % 2 else "no"}
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    text = pairs.TASK.format(name="toy_text", data=data, cache=folder / "cache")
    text = text.replace("max_gen_toks: 12", "max_gen_toks: 24") + f"repeats: {REPEATS}\n"
    (folder / "toy_text.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def runs(config, task, tmp_path_factory) -> SimpleNamespace:
    """The reports of the killed runs and of the one that ended the work, and of one that nobody
    killed; their folder."""
    draw = random.Random(SEED)
    kinds = ["loading"] * 2 + ["decoding"] * 5 + ["round"] * 6 + ["writing"] * 4
    draw.shuffle(kinds)
    kinds += ["scoring", "scoring", "saving"]
    assert len(kinds) == NUM_KILLS
    folder = tmp_path_factory.mktemp("runs")
    flags = f"--model hf --model_args config_path={config} --tasks toy_text --device cpu"
    flags += f" --include_path {task} --batch_size 4 --log_samples"
    plan = {"folder": str(folder), "seed": SEED, "num_requests": NUM_REQUESTS, "kills": kinds}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.harness.killed_runs",
            json.dumps(plan | {"arguments": flags.split()}),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    *resumed, whole = json.loads((folder / "report.json").read_text())
    return SimpleNamespace(folder=folder, resumed=resumed, whole=whole)


def finished(run: dict) -> list[str]:
    """The journal's whole lines after a run, without the header."""
    return run["journal"].split("\n")[1:-1]


def output(runs: SimpleNamespace, name: str) -> dict:
    [file] = (runs.folder / name).rglob("results_*.json")
    return json.loads(file.read_text())


def samples(runs: SimpleNamespace, name: str) -> list[dict]:
    [file] = (runs.folder / name).rglob("samples_toy_text_*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["doc_id"])


def table(run: dict) -> list[str]:
    return [line for line in run["log"].splitlines() if line.startswith("|")]


@pytest.mark.slow
def test_kills_hit_everywhere(runs):
    """Guards the tests below: they would pass if every run were killed before it did anything."""
    killed = [run for run in runs.resumed if run["killed"]]
    assert len(killed) == NUM_KILLS
    for run in [*runs.resumed, runs.whole]:
        assert run.get("killed") or run["exit_code"] == 0, run["log"]
    at_work = [run for run in killed if run["asked"] and len(finished(run)) < NUM_REQUESTS]
    assert len(at_work) >= NUM_KILLS // 3
    assert any(run["journal"] and not run["journal"].endswith("\n") for run in killed)
    assert any((runs.folder / "killed").rglob("results_*.json"))


@pytest.mark.slow
def test_nothing_finished_is_lost(runs):
    for before, run in pairwise(runs.resumed):
        assert finished(run)[: len(finished(before))] == finished(before)


@pytest.mark.slow
def test_nothing_is_decoded_twice(runs):
    times = Counter(json.loads(line)["key"] for line in finished(runs.resumed[-1]))
    assert len(times) == NUM_REQUESTS
    assert set(times.values()) == {1}
    # The engine is never given what is finished.
    for before, run in pairwise(runs.resumed):
        if run["asked"] is not None:
            assert run["asked"] == NUM_REQUESTS - len(finished(before))


@pytest.mark.slow
def test_the_end_is_that_of_an_uninterrupted_run(runs):
    resumed, whole = output(runs, "resumed"), output(runs, "uninterrupted")
    assert table(runs.resumed[-1]) == table(runs.whole) != []
    assert resumed["results"] == whole["results"]
    assert 0 < whole["results"]["toy_text"]["exact_match,none"] < 1
    assert samples(runs, "resumed") == samples(runs, "uninterrupted")
    assert len(samples(runs, "resumed")[0]["resps"][0]) == REPEATS


@pytest.mark.slow
def test_statistics_are_of_all_requests_whenever_decoded(runs):
    resumed, whole = (
        output(runs, name)["speculative_decoding"]["overall"]
        for name in ("resumed", "uninterrupted")
    )
    counters, expected = (
        {key: value for key, value in one["counters"].items() if not key.startswith(OF_THE_BATCH)}
        for one in (resumed, whole)
    )
    assert counters == expected
    assert counters["requests"] == NUM_REQUESTS
    assert counters["matched"] > counters["rounds"]
    assert resumed["finish_reasons"] == whole["finish_reasons"]
    assert (resumed["resumed"], whole["resumed"]) == (NUM_REQUESTS, 0)
    lines = finished(runs.resumed[-1])
    spent_s = sum(json.loads(line)["record"]["statistics"]["seconds_target"] for line in lines)
    assert resumed["counters"]["seconds_target"] == pytest.approx(spent_s)
    told = f"{NUM_REQUESTS} of {NUM_REQUESTS} requests were decoded by earlier runs"
    assert told in runs.resumed[-1]["log"]
