"""Gains of packed weights, measured by shape and number of lines.  They are stored, so that a later
start chooses the same kernels."""

# Another kernel rounds otherwise, and that decides between two tokens that nearly tie.  So a choice
# made by the clock is made once for a machine and kept.

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from fly.errors import FLyWarning
from fly.machine import processor
from fly.places import cache_folder, write_whole

VERSION = 1  # of the file, and of how it is measured
# Numbers of lines (tokens of all rows) that are measured, each standing for those down to the one
# before; the last stands for all above, too.
LINES = (1, 2, 4, 8, 16, 32, 64, 256)
LAYOUT_LINES = 16  # what the layout of a packed weight is made for
REPEATS = 5
# Numbers of one shape's weights that are run through, so that they are not all in a core's cache as
# in no real forward; of a larger weight a part is measured.
MAX_NUMBERS = 1 << 23

PAYS = 1.2  # times as fast a packed product has to be: less is not worth the memory

Way = Callable[[], list[Tensor]]  # of computing the same products
# Times as fast as an ordinary product, by shape_name and number of lines.
Gains = dict[str, dict[int, float]]
# Numbers of lines for which a product runs packed, by shape_name.
Choice = dict[str, list[int]]


def choose(gains: Gains) -> Choice:
    """What pays."""
    return {
        name: [lines for lines, gain in by_lines.items() if gain >= PAYS]
        for name, by_lines in gains.items()
    }


def is_available() -> bool:
    """Whether this torch has the two operations, which are private to it."""
    names = "_reorder_linear_weight", "_linear_pointwise"
    has_ops = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return torch.backends.mkldnn.is_available() and has_ops


def pack_weight(weight: Tensor) -> Tensor:
    """A copy of a weight [out, in] in the layout of packed products."""
    with torch.no_grad():
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach().contiguous(), LAYOUT_LINES
        )
    return packed


def packed_product(states: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """As `linear(states, weight, bias)`.  [..., in] -> [..., out]"""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return product


def line_class(lines: int) -> int:
    """The place in LINES that stands for a number of lines."""
    return min(max(lines - 1, 0).bit_length(), len(LINES) - 1)


def shape_name(weight: Tensor) -> str:
    """As "float32 49152x576": type, outputs, inputs."""
    return f"{str(weight.dtype).removeprefix('torch.')} {weight.shape[0]}x{weight.shape[1]}"


def default_folder() -> Path:
    """Where the gains are stored, a file for each machine and set of shapes."""
    return cache_folder("packed")


def find_gains(groups: dict[str, list[Tensor]]) -> Gains:
    """What was stored for these weights on this machine, or else what is measured now, which is
    stored then.

    Args:
        groups: weights [out, in] by their shape_name.

    Warns:
        FLyWarning: the store is damaged, so it is measured anew; or it cannot be written.
    """
    known = {**_machine(), "shapes": sorted(groups)}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    file = default_folder() / f"{digest[:32]}.json"
    if file.exists():
        try:
            return _Stored.model_validate_json(file.read_bytes()).complete(groups)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(
                f"{file} is damaged ({reason}); it is measured anew which products run packed",
                FLyWarning,
                stacklevel=2,
            )
    gains = {name: measure(weights) for name, weights in groups.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, _Stored(machine=known, gains=gains).model_dump_json(indent=1) + "\n")
    except OSError as error:
        warnings.warn(
            f"it cannot be stored which products run packed ({error}), so the next start measures "
            "it again and may choose others; set packed to on or off",
            FLyWarning,
            stacklevel=2,
        )
    return gains


class _Stored(BaseModel):
    """Contents of the file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    machine: dict[str, Any]
    gains: dict[str, dict[int, NonNegativeFloat]]

    def complete(self, names: Iterable[str]) -> Gains:
        """The gains, where all are there.

        Raises:
            ValueError: some are not.
        """
        if set(self.gains) != set(names) or any(set(g) != set(LINES) for g in self.gains.values()):
            raise ValueError("it is of other shapes")
        return self.gains


def _machine() -> dict[str, Any]:
    """What decides which kernel is faster, besides the shapes."""
    return {
        "version": VERSION,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@torch.inference_mode()
def measure(weights: Sequence[Tensor]) -> dict[int, float]:
    """Ratio of both products' times, measured in turn, by number of lines."""
    num_out = min(len(weights[0]), max(1, MAX_NUMBERS // weights[0].shape[1]))
    count = max(1, MAX_NUMBERS // (num_out * weights[0].shape[1]))
    parts = [weight[:num_out].contiguous() for weight in islice(weights, count)]
    packed = [pack_weight(part) for part in parts]
    gains = {}
    for lines in LINES:
        generator = torch.Generator().manual_seed(lines)
        states = torch.randn(lines, parts[0].shape[1], generator=generator).to(parts[0].dtype)
        ways: tuple[Way, Way] = (
            partial(_run, F.linear, states, parts),
            partial(_run, partial(packed_product, bias=None), states, packed),
        )
        if not _agree(*(torch.stack(way()) for way in ways)):
            gains[lines] = 0.0
            continue
        # The process's own time, and the shortest of several: what else the machine does counts
        # little.
        seconds = [[_time(way) for way in ways] for _ in range(REPEATS)]
        plain, fast = map(min, zip(*seconds, strict=True))
        gains[lines] = round(plain / fast, 3)
    return gains


def _agree(plain: Tensor, packed: Tensor) -> bool:
    """Whether two kernels' products are the same but for rounding."""
    rounding = 1e-3 if plain.dtype == torch.float32 else 3e-2
    return bool((packed - plain).abs().max() <= rounding * plain.abs().max())


def _run(
    product: Callable[[Tensor, Tensor], Tensor], states: Tensor, weights: Sequence[Tensor]
) -> list[Tensor]:
    return [product(states, weight) for weight in weights]


def _time(work: Way) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
