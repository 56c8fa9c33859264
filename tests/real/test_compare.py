"""`fly compare` on a real model and real items, from flags to a verdict."""

import json
from pathlib import Path

import pytest

from benchmarks.smollm2 import FILE, folder
from fly.cli import main

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")]

TASKS = Path(__file__).parent / "tasks"
NUM_ITEMS = 6
LOOSENED = "suffix+fly:loosen_copied=true,win_len=2,spd_k=8"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """What was found of prompt lookup: natively, and with its copies loosened by FLy."""
    out = tmp_path_factory.mktemp("compared")
    settings = {
        "target_model_path": str(folder()),
        "drafter": "suffix",
        "acceptance": "native",
        "total_gen_tok": 24,
    }
    (out / "smollm2.json").write_text(json.dumps(settings))
    model_args = f"config_path={out / 'smollm2.json'},gguf_file={FILE},dtype=float32"
    flags = [
        *("--model_args", model_args, "--apply_chat_template", "--batch_size", str(NUM_ITEMS)),
        *("--include_path", str(TASKS), "--tasks", "gsm8k_real", "--limit", str(NUM_ITEMS)),
        *("--methods", "target,native", LOOSENED, "--output_path", str(out / "out")),
        *("--metric", "exact_match,flexible-extract", "--margin_points", "10"),
    ]
    assert main(["compare", *flags]) == 0
    [found] = json.loads((out / "out" / "compare.json").read_text())["tasks"]
    return found


def test_native_is_the_target_itself(task):
    native = next(method for method in task["methods"] if method["name"] == "native")
    assert native["is_lossless"]
    assert native["texts"]["num_equal"] + native["texts"]["num_ties"] == NUM_ITEMS
    assert native["settings"]["draft_length"] == "adaptive"


def test_every_filter_has_its_row(task):
    for method in task["methods"]:
        assert method["score"]["filter"] == "flexible-extract"
        assert [score["filter"] for score in method["other_scores"]] == ["strict-match"]
        assert method["score"]["num_items"] == NUM_ITEMS


def test_what_is_lossy_has_a_verdict(task):
    """Of few items and a weak model: none is lost without being seen, and little is told."""
    lossy = next(method for method in task["methods"] if method["name"] == LOOSENED)
    assert not lossy["is_lossless"]
    assert lossy["verdict"]["verdict"] in ("SAFE", "NOT SAFE", "INCONCLUSIVE")
    assert "point" in lossy["verdict"]["explanation"]
    assert lossy["paired"]["num_items"] == NUM_ITEMS
