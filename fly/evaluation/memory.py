"""The most memory that a piece of work took, on the device or, without one, in this process."""

from __future__ import annotations

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size
_PEAK = "VmHWM:"  # kB


class PeakMemory:
    """`start`, work, `read`: bytes, or None where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        """Watch the device's memory, or on a CPU the process's resident set."""
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._is_known = False

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _CLEAR.write_text(_RESET_PEAK)
            self._is_known = True
        except OSError:
            self._is_known = False

    def read(self) -> int | None:
        """The peak since `start`, models included."""
        if self._on_cuda:
            return int(torch.cuda.max_memory_allocated(self._device))
        if not self._is_known:
            return None
        for line in _STATUS.read_text().splitlines():
            if line.startswith(_PEAK):
                return int(line.split()[1]) * 1024
        return None
