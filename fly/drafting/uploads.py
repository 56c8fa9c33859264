"""Transfers of integers to a device, those of a round in one.  Nothing waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HOST = "cpu"  # the kind of device where looking at a tensor waits for nothing


def is_awaited(device: torch.device) -> bool:
    """Whether looking at a tensor waits for all that the device was asked for."""
    return device.type != HOST


def upload(values: Sequence[Any] | Tensor, device: torch.device) -> Tensor:
    """Integers in lists of equal length, as int64, or a tensor, from the host.  Nothing waits for
    the device.
    """
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int64)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Upload:
    """Numbers of 64 bits that a device gets with all else that it was promised."""

    def __init__(self, uploads: Uploads, values: Tensor, device: torch.device) -> None:
        """`values` lie on the host."""
        self.values = values
        self.device = device
        self.sent: Tensor | None = None
        self._uploads = uploads

    @property
    def tensor(self) -> Tensor:
        """They, on the device."""
        if self.sent is None:
            self._uploads.send(self.device)
        assert self.sent is not None
        return self.sent


class Uploads:
    """What is promised to a device goes there together, when the first of it is asked for."""

    def __init__(self) -> None:
        """Nothing is promised."""
        self._waiting: list[Upload] = []

    def add(self, values: Sequence[Any] | Tensor, device: torch.device) -> Upload:
        """Promise integers in lists of equal length, or a tensor of int64 or float64."""
        host = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int64)
        added = Upload(self, host, device)
        self._waiting.append(added)
        return added

    def begin(self) -> None:
        """A round begins: what the last one did not ask for is not sent."""
        self._waiting.clear()

    def send(self, device: torch.device) -> None:
        """Send all that was promised to `device`."""
        parts = [each for each in self._waiting if each.device == device]
        self._waiting = [each for each in self._waiting if each.device != device]
        if len(parts) < 2 or not is_awaited(device):
            for part in parts:
                part.sent = upload(part.values, device)
            return
        bits = [part.values.view(torch.int64).flatten() for part in parts]
        sent = upload(torch.cat(bits), device).split([len(each) for each in bits])
        for part, own in zip(parts, sent, strict=True):
            part.sent = own.view(part.values.dtype).view(part.values.shape)


@dataclass(frozen=True, eq=False)
class RowInts(Sequence[int]):
    """An integer for every row, which the host knows and the device has."""

    values: Sequence[int]
    tensor: Tensor  # [B] int64

    @classmethod
    def of(cls, values: Sequence[int], device: torch.device) -> RowInts:
        """These, uploaded unless the device has them."""
        return values if isinstance(values, RowInts) else cls(values, upload(values, device))

    def __len__(self) -> int:
        """B."""
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        """A row's."""
        return self.values[index]

    def __iter__(self) -> Iterator[int]:
        """On the host."""
        return iter(self.values)

    def plus(self, others: Sequence[int]) -> RowInts:
        """The sums by row; nothing is uploaded where all `others` are one number."""
        sums = [own + other for own, other in zip(self.values, others, strict=True)]
        if min(others) == max(others):
            return RowInts(sums, self.tensor + others[0])
        return RowInts(sums, self.tensor + RowInts.of(others, self.tensor.device).tensor)
