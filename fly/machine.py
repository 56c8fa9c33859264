"""The processor that a figure was measured on or a kernel chosen for."""

from __future__ import annotations

import platform
from pathlib import Path

_FLAGS = ("avx2", "avx512f", "amx_tile")  # of a processor: what speeds up matrix products


def processor() -> str:
    """The processor's name and what of it speeds up matrix products."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        lines[name.strip()] = value.strip()
    flags = [flag for flag in _FLAGS if flag in lines.get("flags", "").split()]
    return f"{lines.get('model name', platform.processor())} ({', '.join(flags)})"
