"""The command for a GPU, on tiny shapes and the CPU: everything in it runs but the kernels."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def gpu():
    """The script as a module, which imports its neighbours by bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("gpu")


@pytest.fixture(scope="module")
def report(gpu):
    """What is measured, but for compiled steps, whose tracing takes half a minute."""
    plan = gpu.Plan.smoke()
    plan.compiled_batches = ()
    return json.loads(json.dumps(gpu.measure(plan)))


def test_every_method_has_its_figures(report):
    tiny = report["tiny"]
    assert tiny["one_read"]["target"]["bytes"] > tiny["one_read"]["draft"]["bytes"] > 0
    found = tiny["end_to_end"]
    assert [name for name, each in found.items() if each.get("tokens") not in (8, 24)] == []
    for batch in (1, 3):
        for method in ("native", "native, eager", "plain", "generate", "generate, static cache"):
            assert found[f"{method}, batch {batch}"]["tokens"] == 8 * batch
    assert found["assisted, batch 1"]["tokens"] == 8
    assert found["native, batch 1"]["tokens_per_round"] >= 1


def test_captured_forwards_are_compared_with_eager_ones(report):
    tiny = report["tiny"]
    for found in (tiny["forwards"]["target"], tiny["forwards"]["draft"]):
        for name, each in found.items():
            assert each["ms"] > 0, name
            if not name.startswith("eager"):
                assert each["off_by"] < 1e-3
                assert each["replays"] > 0


def test_logits_are_read_by_torch_and_the_kernel_is_missed(report):
    assert report["acceptance"]["torch"]["gb_per_s"] > 0
    assert "failed" in report["acceptance"]["fused kernel"], "a CPU has none"


def test_the_draft_agrees_as_often_as_asked(gpu):
    shape = gpu.TINY | {"num_hidden_layers": 6}
    plan = gpu.Plan.smoke()
    target = gpu.make_target(plan, shape)
    draft = gpu.without_layers(target, range(1, 6))
    before = draft(torch.tensor([[5, 6, 7]])).logits
    share = gpu.scale_rest(plan, target, draft, 1)
    assert 0.5 < share < 1
    assert torch.equal(draft(torch.tensor([[5, 6, 7]])).logits, before), "its own layers stay"


def test_what_fails_or_is_late_is_written_down(gpu):
    plan = gpu.Plan.smoke()
    assert plan.attempt(lambda: 1 / 0) == {"failed": "ZeroDivisionError: division by zero"}
    plan.seconds = 0.0
    assert plan.attempt(lambda: 1) == {"skipped": "no time left"}


def test_without_a_gpu_nothing_is_measured(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="--smoke"):
        gpu.main()


@pytest.mark.slow
def test_the_command(tmp_path):
    """Compiled steps too."""
    file = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/gpu.py", "--smoke", "--output", file],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(file.read_text())["tiny"]["compiled"]
    assert len(found) == 2
    assert all(each["off_by"] < 1e-3 and each["replays"] for each in found.values())
