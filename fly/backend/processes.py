"""Several processes on a CPU.  Started by `accelerate launch` or torchrun, each of them evaluates a
share of the documents; accelerate finds the others by itself on accelerators only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState

# A process that is done waits for the slowest one.  The value is HFLM's.
_PATIENCE = timedelta(weeks=52)


def on_cpu() -> bool:
    """Whether accelerate works on the CPU: told so (`accelerate launch --cpu`), or for want of
    anything else."""
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    return told or not torch.accelerator.is_available()


def join_on_cpu(options: Mapping[str, Any]) -> None:
    """Make accelerate's state one of several CPU processes, where the launcher started several and
    HFLM's `options` put the target on the CPU.

    Not with `tp_plan`, where all processes hold one model together.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ
    if several and options.get("tp_plan") is None and (options["device"] == "cpu" or on_cpu()):
        state = PartialState(cpu=True, timeout=_PATIENCE)
        # accelerate 1.6 numbers them, cpu:0 and cpu:1, and safetensors knows no such device.
        state.device = torch.device("cpu")
