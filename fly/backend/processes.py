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


def join_on_cpu(options: Mapping[str, Any]) -> None:
    """Make accelerate's state one of several CPU processes, where the launcher started several and
    HFLM's `options` put the target on the CPU.

    Not with `tp_plan`, where all processes hold one model together.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ
    on_cpu = options["device"] == "cpu" or not torch.accelerator.is_available()
    if several and on_cpu and options.get("tp_plan") is None:
        PartialState(cpu=True, timeout=_PATIENCE)
