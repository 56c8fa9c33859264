"""Places of the weights, by the room on each device.  Where there is too little, the error has the
numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

from fly.errors import ModelError, quoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
_SHOWN = 4  # devices listed in an error


@dataclass(frozen=True)
class Room:
    """Memory of a device, in bytes."""

    free: int
    total: int

    def __str__(self) -> str:
        """In GiB."""
        return f"{self.free / GIB:.1f} of {self.total / GIB:.1f} GiB free"


@dataclass(frozen=True)
class Weights:
    """What a model's weights take."""

    num_bytes: int
    dtype: torch.dtype

    def __str__(self) -> str:
        """In GiB."""
        return f"{self.num_bytes / GIB:.1f} GiB in {str(self.dtype).removeprefix('torch.')}"


def measure_room() -> dict[torch.device, Room]:
    """Of every CUDA device that this process sees; nothing without one."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        torch.device("cuda", index): Room(*torch.cuda.mem_get_info(index)) for index in range(count)
    }


def weights_of(model: PreTrainedModel) -> Weights:
    """Of a loaded model; weights that it uses twice count once."""
    parts = {id(each): each for each in (*model.parameters(), *model.buffers())}
    num_bytes = sum(each.numel() * each.element_size() for each in parts.values())
    return Weights(num_bytes, model.dtype)


def weights_planned(config: Any, dtype: torch.dtype | str | None) -> Weights | None:
    """Of a model that is not loaded, from its configuration; None where that cannot be said.

    Args:
        config: transformers' configuration of the model.
        dtype: what is asked for; "auto" and None mean the configuration's own.
    """
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    taken = named if isinstance(named, torch.dtype) else getattr(config, "dtype", None)
    try:
        with torch.device("meta"):
            count = AutoModelForCausalLM.from_config(config).num_parameters()
    except Exception:  # noqa: BLE001  only to say more in an error
        return None
    taken = taken if isinstance(taken, torch.dtype) else torch.float32
    return Weights(count * taken.itemsize, taken)


def draft_devices(target: PreTrainedModel, first: torch.device) -> list[torch.device]:
    """Where a draft may lie: `first`, which takes the target's ids, and other accelerators that
    hold weights of the target.  Devices that do not may be another process's.
    """
    held = {weights.device for weights in target.parameters()}
    first = _numbered(first)
    others = {device for device in held if device.type not in ("cpu", "meta")} - {first}
    return [first, *sorted(others, key=str)]


def roomiest(devices: Sequence[torch.device], room: Mapping[torch.device, Room]) -> torch.device:
    """The device with most free memory; of equals, and where nothing is known, the first."""
    return max(devices, key=lambda device: room[device].free if device in room else -1)


def move_draft(
    draft: PreTrainedModel, path: str, device: torch.device, room: Mapping[torch.device, Room]
) -> PreTrainedModel:
    """The draft on this device.

    Raises:
        ModelError: it has no room there.
    """
    weights = weights_of(draft)
    with explaining_room("draft_model_path", path, lambda: weights, device):
        known = room.get(_numbered(device))
        if known is not None and known.free < weights.num_bytes:
            raise torch.OutOfMemoryError
        moving: Any = draft
        moved: PreTrainedModel = moving.to(device)
    return moved


@contextmanager
def explaining_room(
    key: str,
    path: str,
    count: Callable[[], Weights | None],
    device: torch.device | None = None,
) -> Iterator[None]:
    """Turn an error for want of memory while a model is loaded into one with numbers.

    Args:
        key: the setting that names the model.
        path: its value.
        count: what its weights take, asked only then.
        device: where it was to go, if that is one.

    Raises:
        ModelError: out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        weights, room = count(), measure_room()
        known = [f"{place} has {each}" for place, each in room.items()]
        if len(known) > _SHOWN:
            known = [*known[:_SHOWN], f"{len(known) - _SHOWN} more devices"]
        what = "whose weights" if weights is None else f"whose weights take {weights} and"
        where = "" if device is None else f" on {device}"
        raise ModelError(
            f"{key} is {quoted(path)}, {what} have no room{where}: "
            f"{', '.join(known) or 'out of memory'}",
            fix=_advice(key == "draft_model_path", weights, room),
        ) from error


def _advice(is_draft: bool, weights: Weights | None, room: Mapping[torch.device, Room]) -> str:
    """What to set."""
    needed = weights.num_bytes if weights else 0
    free = [place for place in room if room[place].free > needed > 0]
    advice = []
    if is_draft and free:
        advice.append(f"set draft_device to {roomiest(free, room)}, which has room")
    elif not is_draft and len(room) > 1:
        advice.append("pass parallelize=True, which spreads it over all devices")
    if weights is not None and weights.dtype == torch.float32:
        advice.append(f"set {'draft_dtype' if is_draft else 'dtype'} to bfloat16, which halves it")
    advice.append(f"choose a smaller {'draft' if is_draft else 'target'}")
    return ", or ".join(advice) + "; caches need room besides"


def _numbered(device: torch.device) -> torch.device:
    """`cuda` is the first one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", 0)
    return device
