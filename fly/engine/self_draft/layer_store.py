"""Files with the layers that a search left out, so that it runs once.  Each is a JSON file named
after the model and all that the search depends on."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fly.engine.self_draft.layer_search import LayerSet
from fly.errors import FLyWarning
from fly.places import cache_folder, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 2  # of the file, and of how layers are searched
SAMPLED_NUMBERS = 64  # of every weight


class Stored(BaseModel):
    """Contents of the file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    left_out: list[int] = Field(min_length=1)
    agreement: float = Field(ge=0, le=1)
    cost: float = Field(gt=0, le=1)


def default_folder() -> Path:
    """Below the user's cache directory."""
    return cache_folder("self")


def key_of(model: PreTrainedModel, ids: Tensor, keep: float | None) -> str:
    """64 hexadecimal digits over the model's configuration, some numbers of each of its weights,
    the calibration text and the share of layers that stays.
    """
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        config.pop(name, None)
    known = [VERSION, config, ids.tolist(), keep]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        places = spread(len(flat), SAMPLED_NUMBERS).to(flat.device)
        numbers = flat[places].to("cpu", torch.float64)
        digest.update(f"{name} {tuple(weight.shape)}".encode() + numbers.numpy().tobytes())
    return digest.hexdigest()


def spread(length: int, count: int) -> Tensor:
    """Up to `count` different places of a weight of `length` numbers, from its first to its last.

    Integers throughout: float32 does not have every whole number above 2^24.
    """
    count = min(count, length)
    return torch.arange(count) * (length - 1) // max(1, count - 1)


def find_or_search(
    folder: Path, key: str, num_layers: int, search: Callable[[], LayerSet]
) -> LayerSet:
    """What the folder holds under a key, or else what a search finds, which is stored then.

    Warns:
        FLyWarning: the file is damaged, so it is searched anew; or it cannot be written.
    """
    file = folder / f"{key}.json"
    if file.exists():
        try:
            return _read(file, num_layers)
        except (OSError, ValueError) as error:
            warnings.warn(
                f"{file} is damaged ({str(error).splitlines()[0]}); the layers to leave out are "
                "searched anew",
                FLyWarning,
                stacklevel=2,
            )
    found = search()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(found.to_json()) + "\n")
    except OSError as error:
        warnings.warn(
            f"the layers to leave out cannot be stored ({error}), so the next start searches them "
            "again; set cache_dir in drafter_settings to a folder that can be written",
            FLyWarning,
            stacklevel=2,
        )
    return found


def _read(file: Path, num_layers: int) -> LayerSet:
    stored = Stored.model_validate_json(file.read_bytes(), strict=True)
    left_out = tuple(stored.left_out)
    if len(set(left_out)) >= num_layers or not set(left_out) < set(range(num_layers)):
        raise ValueError(f"it leaves out {list(left_out)} of {num_layers} layers")
    return LayerSet(left_out, stored.agreement, stored.cost)
