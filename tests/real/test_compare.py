"""`fly compare` on a real model and real items, from flags to a verdict."""

import json
from pathlib import Path

import pytest

from benchmarks.smollm2 import FILE, folder
from fly.cli import main

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")]

TASKS = Path(__file__).parent / "tasks"
NUM_ITEMS = 8


@pytest.fixture
def config(tmp_path) -> Path:
    """Prompt lookup, with what it copies loosened by FLy: fast, and of no use."""
    file = tmp_path / "smollm2.json"
    settings = {
        "target_model_path": str(folder()),
        "drafter": "suffix",
        "acceptance": "native",
        "total_gen_tok": 48,
    }
    file.write_text(json.dumps(settings))
    return file


def test_compare_gives_a_verdict(config, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [
        *("--model_args", f"config_path={config},gguf_file={FILE},dtype=float32"),
        *("--include_path", str(TASKS), "--tasks", "gsm8k_real", "--limit", str(NUM_ITEMS)),
        *("--apply_chat_template", "--batch_size", str(NUM_ITEMS), "--output_path", str(out)),
        *("--methods", "target,native", "suffix+fly:loosen_copied=true,win_len=2,spd_k=8"),
        *("--metric", "exact_match,flexible-extract", "--margin_points", "10"),
    ]
    assert main(["compare", *flags]) == 0
    result = json.loads((out / "compare.json").read_text())
    print(json.dumps(result, indent=1)[:6000])
    print(capsys.readouterr().out)
