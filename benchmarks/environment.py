"""What a figure was measured with: command, hardware, versions, weights, date."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from fly.demo import weight_hashes

PACKAGES = ("fly-decoding", "torch", "transformers", "lm-eval", "numpy")


def describe() -> dict[str, object]:
    """Everything a reader needs to judge or repeat the measurement."""
    return {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "weights_sha256": weight_hashes(),
    }


def processor() -> str:
    """The processor's name and what of it speeds up matrix products."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = dict(
        (part.strip() for part in line.split(":", 1))
        for line in cpuinfo.read_text().splitlines()
        if ":" in line
    )
    flags = [flag for flag in ("avx2", "avx512f", "amx_tile") if flag in lines["flags"].split()]
    return f"{lines['model name']} ({', '.join(flags)})"
