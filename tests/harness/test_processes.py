"""Which processes are joined on a CPU.  That they then share the work: tests/cli/test_launch.py."""

import sys
from types import SimpleNamespace

import pytest
import torch

from fly.harness import processes

SECOND_OF_TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
CASES = {  # environment, HFLM's options, whether there is an accelerator; whether they are joined
    "one process": ({}, {"device": "cpu"}, False, False),
    "two on a CPU": (SECOND_OF_TWO, {"device": "cuda:0"}, False, True),
    "two, CPU named": (SECOND_OF_TWO, {"device": "cpu"}, True, True),
    "two, launch --cpu": (
        SECOND_OF_TWO | {"ACCELERATE_USE_CPU": "True"},
        {"device": "cuda"},
        True,
        True,
    ),
    "two GPUs": (SECOND_OF_TWO, {"device": "cuda"}, True, False),
    "one model on two": (SECOND_OF_TWO, {"device": "cpu", "tp_plan": "auto"}, False, False),
}


@pytest.mark.parametrize(
    ("environment", "options", "accelerator", "joined"), CASES.values(), ids=CASES
)
def test_join_on_cpu(monkeypatch, environment, options, accelerator, joined):
    states = []

    def state(**given):
        states.append(SimpleNamespace(given=given, device=torch.device("cpu:1")))
        return states[-1]

    monkeypatch.setattr(processes, "PartialState", state)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.join_on_cpu(options)
    assert len(states) == joined
    for one in states:
        assert one.given["cpu"] is True
        assert one.device == torch.device("cpu")


@pytest.mark.parametrize("code", [0, 2])
def test_exit_code_is_that_of_the_process_that_failed(monkeypatch, code):
    program = f"import os, sys; sys.exit({code} if os.environ['RANK'] == '1' else 0)"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", program])
    assert processes.rerun_in(2) == code
