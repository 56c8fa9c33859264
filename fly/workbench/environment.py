"""Command, hardware, versions and date behind a figure."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from fly.config import FLyConfig
from fly.config.loading import PATH_KEYS
from fly.harness.fingerprint import versions
from fly.machine import processor


def describe(command: str | None = None) -> dict[str, object]:
    """Everything a reader needs to judge or repeat the measurement.

    Args:
        command: how it is repeated; None takes the process's own.
    """
    found: dict[str, object] = {
        "command": command or " ".join(["python", *sys.orig_argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions() | {"numpy": importlib.metadata.version("numpy")},
    }
    if torch.cuda.is_available():
        found["accelerators"] = [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ]
    return found


def told(config: FLyConfig) -> dict[str, Any]:
    """The settings for a result that others read: models below the current directory by their
    relative paths."""
    settings: dict[str, Any] = config.to_dict()
    for key in PATH_KEYS:
        path = settings[key]
        if path is not None and Path(path).is_relative_to(Path.cwd()):
            settings[key] = Path(path).relative_to(Path.cwd()).as_posix()
    return settings
