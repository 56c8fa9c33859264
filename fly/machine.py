"""The processor that a figure was measured on or a kernel chosen for."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_FLAGS = ("avx2", "avx512f", "amx_tile")  # of a processor: what speeds up matrix products


@cache
def _cpuinfo() -> dict[str, str]:
    """What Linux tells of the last core; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def cpu_flags() -> str:
    """The processor's features, for code that is compiled for this one."""
    told = _cpuinfo()
    if not told:
        return platform.processor()
    return told.get("flags", told.get("Features", ""))


def processor() -> str:
    """The processor's name and what of it speeds up matrix products."""
    told = _cpuinfo()
    if not told:
        return platform.processor()
    flags = [flag for flag in _FLAGS if flag in told.get("flags", "").split()]
    return f"{told.get('model name', platform.processor())} ({', '.join(flags)})"
