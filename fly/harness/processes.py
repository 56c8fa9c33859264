"""Several processes on a CPU, each with a share of the documents.  accelerate starts them, and lets
them find each other, on accelerators only."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState

# A process that is done waits for the slowest one.  The value is HFLM's.
_PATIENCE = timedelta(weeks=52)


def on_cpu() -> bool:
    """Whether accelerate works on the CPU: by setting (`accelerate launch --cpu`), or for want of
    anything else."""
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    anything = getattr(torch, "accelerator", torch.cuda)  # torch 2.5 asks each kind by itself
    return told or not anything.is_available()


def join_on_cpu(options: Mapping[str, Any]) -> None:
    """Make accelerate's state one of several CPU processes, where the launcher started several and
    HFLM's `options` put the target on the CPU.

    Not with `tp_plan`, where all processes hold one model together.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ
    if several and options.get("tp_plan") is None and (options["device"] == "cpu" or on_cpu()):
        state = PartialState(cpu=True, timeout=_PATIENCE)
        # accelerate 1.6 numbers them, cpu:0 and cpu:1, and safetensors has no such device.
        state.device = torch.device("cpu")


def rerun_in(number: int) -> int:
    """Run this program anew, with its own command line, in `number` processes that work
    together.  Returns the exit code: 0, or that of the first process that failed, upon which the
    others are ended.  Where a signal ended this one it is 128 and the signal's number; what there
    is to report of that, the processes have reported."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return int(failure.exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
