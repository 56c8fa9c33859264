"""Compiled and packed forwards against eager ones and transformers: `python benchmarks/steps.py`.

The embedded pair over held-out problems, FLy with the settings of demo.json, in one process, block
by block in rotating order, one thread: native, FLy and plain decoding with `compile: on` and
`packed: auto`, the same with both off, transformers' `generate` and, at batch 1, its assisted
generation with its defaults and with K = 4 and 15.  FLy runs twice (A/A).  Whole wall time with
prefill; compiling happens before the first block and is counted apart.  Answers of both ways are
compared; a first difference is a tie where the target's two best logits nearly agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from blocks import (
    Block,
    Method,
    Pair,
    Prompts,
    bar,
    engine,
    interleave,
    interval,
    parsed,
    parser,
    plain_generate,
    ratio,
    run_blocks,
    save,
    total,
)
from cpu import ASSISTED, assisted_generate, draw_problems

from fly.workbench.divergence import compare

SEED = 707
EAGER: dict[str, Any] = {"compile": "off", "packed": "off"}
METHODS: dict[str, dict[str, Any]] = {
    "fly": {},
    "native": {"acceptance": "native"},
    "plain": {"use_sd": False},
}
# Ratios by batch size, each with its bar, which holds on AMD; elsewhere it is published beside it.
BARS: dict[int, dict[tuple[str, str], float | None]] = {
    1: {
        ("fly", "assisted"): 2.3,
        ("native", "assisted"): 1.8,
        ("native", "native eager"): 2.2,
        ("fly", "fly eager"): None,
        ("plain", "plain eager"): None,
        ("plain", "generate"): None,
        ("fly", "native"): None,
    }
}
WIDE: dict[tuple[str, str], float | None] = {
    ("fly", "fly eager"): None,
    ("native", "native eager"): None,
    ("plain", "plain eager"): None,
    ("fly", "generate"): None,
    ("fly", "native"): None,
}


def methods(pair: Pair, batch_size: int) -> dict[str, Method]:
    """Both ways of each method, and transformers."""
    found: dict[str, Method] = {}
    for name, settings in METHODS.items():
        found[name] = engine(pair, batch_size, compile="on", **settings)
        found[f"{name} eager"] = engine(pair, batch_size, **EAGER, **settings)
    found["fly again"] = engine(pair, batch_size, compile="on")
    found["generate"] = plain_generate(pair, batch_size)
    if batch_size == 1:
        found |= {name: assisted_generate(pair, k) for name, k in ASSISTED.items()}
    return found


def same_texts(pair: Pair, prompts: Prompts, blocks: Sequence[Block]) -> dict[str, dict[str, int]]:
    """Answers of both ways: equal, tie, different."""
    found = {}
    count = len(blocks)
    order = [prompt for turn in range(count) for prompt in prompts[turn::count]]
    for name in METHODS:
        ours, eager = total(blocks, name).answers, total(blocks, f"{name} eager").answers
        found[name] = dict(
            Counter[str](
                compare(pair.target, prompt, two, one)
                for prompt, one, two in zip(order, ours, eager, strict=True)
            )
        )
    return found


def measure(pair: Pair, batch_size: int, num_blocks: int, size: int) -> dict[str, Any]:
    """One batch size."""
    chosen = methods(pair, batch_size)
    prompts = [pair.encode(problem.prompt) for problem in draw_problems(num_blocks * size, SEED)]
    first = interleave(chosen, [prompts[:batch_size]])  # compiles
    blocks = run_blocks(chosen, prompts, num_blocks, batch_size)
    pairs = BARS.get(batch_size, WIDE)
    if batch_size == 1:
        best = max(ASSISTED, key=lambda name: total(blocks, name).tokens_per_s)
        blocks = [block | {"assisted": block[best]} for block in blocks]
        print(f"batch 1: assisted generation is fastest as {best}")
    ratios: dict[str, Any] = {}
    for (method, baseline), least in pairs.items():
        found = {"ratio": ratio(blocks, method, baseline)}
        ratios[f"{method} / {baseline}"] = found if least is None else bar(found, least)
    ratios["fly again / fly (A/A)"] = {"ratio": ratio(blocks, "fly again", "fly")}
    for name, found in ratios.items():
        print(f"batch {batch_size}: {name}: {interval(found['ratio'])}", found.get("bar", ""))
    texts = same_texts(pair, prompts, blocks)
    print(f"batch {batch_size}: texts {texts}", flush=True)
    return {
        "ratios": ratios,
        "texts": texts,
        "tokens_per_s": {name: total(blocks, name).tokens_per_s for name in blocks[0]},
        "seconds_compile": sum(one.statistics.seconds_compile for one in first.values()),
        "blocks": [
            {name: [one.num_tokens, one.seconds] for name, one in block.items()} for block in blocks
        ],
    }


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "steps.json")
    options.add_argument("--blocks", type=int, default=8)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    arguments = parsed(options)
    pair, report = Pair(), {}
    for batch_size in arguments.batches:
        size = 6 if batch_size == 1 else batch_size  # problems of a block
        report[str(batch_size)] = measure(pair, batch_size, arguments.blocks, size)
        save(arguments.output, {"batches": report})


if __name__ == "__main__":
    main()
