"""Compiled and packed forwards against eager ones and transformers: `python benchmarks/steps.py`.

The embedded pair over held-out problems, FLy with the settings of demo.json, in one process, block
by block in rotating order, one thread: native, FLy and plain decoding with `compile: on` and
`packed: auto`, the same with both off, transformers' `generate`, also with a compiled static cache,
and, at batch 1, its assisted generation with its defaults and with K = 4 and 15, and FlashSpec
(`--flashspec FOLDER`).  FLy runs twice (A/A).  Whole wall time with prefill; compiling happens
before the first block and is counted apart.  Answers of both ways are compared; a first difference
is a tie where the target's two best logits nearly agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks import (
    Block,
    Method,
    Pair,
    Prompts,
    bar,
    dealt,
    engine,
    interleave,
    interval,
    parsed,
    parser,
    plain_generate,
    ratio,
    run_blocks,
    same_texts,
    save,
    tokens_and_seconds,
    total,
)
from cpu import ASSISTED, assisted_generate, draw_problems
from peers import GAMMAS, flashspec_methods, static_generate

SEED = 707
EAGER: dict[str, Any] = {"compile": "off", "packed": "off"}
METHODS: dict[str, dict[str, Any]] = {
    "fly": {},
    "native": {"acceptance": "native"},
    "plain": {"use_sd": False},
}
STATIC = "generate static"
# What its fastest setting stands for.
PEERS: dict[str, Sequence[str]] = {"assisted": list(ASSISTED), "flashspec": list(GAMMAS)}
# Ratios by batch size, each with its bar, which holds on AMD; elsewhere it is published beside it.
BARS: dict[int, dict[tuple[str, str], float | None]] = {
    1: {
        ("fly", "assisted"): 2.3,
        ("native", "assisted"): 1.8,
        ("native", "flashspec"): 1.8,
        ("native", "native eager"): 2.2,
        ("fly", "fly eager"): None,
        ("plain", "plain eager"): None,
        ("plain", "generate"): None,
        ("plain", STATIC): None,
        ("fly", STATIC): None,
        ("fly", "native"): None,
    }
}
WIDE: dict[tuple[str, str], float | None] = {
    ("fly", "fly eager"): None,
    ("native", "native eager"): None,
    ("plain", "plain eager"): None,
    ("fly", "generate"): None,
    ("fly", STATIC): None,
    ("fly", "native"): None,
}


def methods(pair: Pair, batch_size: int, others: Mapping[str, Method]) -> dict[str, Method]:
    """Both ways of each method, and transformers; `others` know batch 1 only."""
    found: dict[str, Method] = {}
    for name, settings in METHODS.items():
        found[name] = engine(pair, batch_size, compile="on", **settings)
        found[f"{name} eager"] = engine(pair, batch_size, **EAGER, **settings)
    found["fly again"] = engine(pair, batch_size, compile="on")
    found["generate"] = plain_generate(pair, batch_size)
    found[STATIC] = static_generate(pair, batch_size)
    if batch_size == 1:
        found |= {name: assisted_generate(pair, k) for name, k in ASSISTED.items()} | dict(others)
    return found


def with_fastest(blocks: Sequence[Block]) -> list[Block]:
    """The same with each peer at its fastest setting."""
    found = list(blocks)
    for peer, settings in PEERS.items():
        if settings[0] in blocks[0]:
            best = max(settings, key=lambda name: total(blocks, name).tokens_per_s)
            found = [{**block, peer: block[best]} for block in found]
            print(f"{peer} is fastest as {best}")
    return found


def texts(pair: Pair, prompts: Prompts, blocks: Sequence[Block]) -> dict[str, dict[str, int]]:
    """Answers compiled and eager, and of lossless peers and ours: equal, tie, different."""
    pairs = {name: (f"{name} eager", name) for name in METHODS}
    pairs |= {name: ("native", name) for name in (STATIC, *PEERS) if name in blocks[0]}
    order = [prompt for own in dealt(prompts, len(blocks)) for prompt in own]
    return {
        title: same_texts(pair.target, order, *(total(blocks, name).answers for name in both))
        for title, both in pairs.items()
    }


def measure(
    pair: Pair, batch_size: int, num_blocks: int, size: int, others: Mapping[str, Method]
) -> dict[str, Any]:
    """One batch size."""
    chosen = methods(pair, batch_size, others)
    prompts = [pair.encode(problem.prompt) for problem in draw_problems(num_blocks * size, SEED)]
    longest = sorted(prompts, key=len)[-batch_size:]
    first = interleave(chosen, [longest])  # compiles
    blocks = with_fastest(run_blocks(chosen, prompts, num_blocks, batch_size))
    ratios: dict[str, Any] = {}
    for (method, baseline), least in BARS.get(batch_size, WIDE).items():
        if baseline in blocks[0]:
            found = {"ratio": ratio(blocks, method, baseline)}
            ratios[f"{method} / {baseline}"] = found if least is None else bar(found, least)
    ratios["fly again / fly (A/A)"] = {"ratio": ratio(blocks, "fly again", "fly")}
    for name, found in ratios.items():
        print(f"batch {batch_size}: {name}: {interval(found['ratio'])}", found.get("bar", ""))
    same = texts(pair, prompts, blocks)
    print(f"batch {batch_size}: texts {same}", flush=True)
    return {
        "ratios": ratios,
        "texts": same,
        "tokens_per_s": {name: total(blocks, name).tokens_per_s for name in blocks[0]},
        "seconds_compile": sum(one.statistics.seconds_compile for one in first.values()),
        "blocks": tokens_and_seconds(blocks),
    }


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "steps.json")
    options.add_argument("--blocks", type=int, default=8)
    options.add_argument("--alone", type=int, default=6, help="problems of a block at batch 1")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    options.add_argument("--flashspec", type=Path, help="where it is installed; else left out")
    arguments = parsed(options)
    pair, report = Pair(), {}
    others: dict[str, Method] = {}
    versions: dict[str, str] = {}
    if arguments.flashspec is None:
        print("no --flashspec: it is left out")
    else:
        others, versions["flashspec"] = flashspec_methods(pair, arguments.flashspec)
    for batch_size in arguments.batches:
        size = arguments.alone if batch_size == 1 else batch_size  # problems of a block
        report[str(batch_size)] = measure(pair, batch_size, arguments.blocks, size, others)
        save(arguments.output, {"peers": versions, "batches": report})


if __name__ == "__main__":
    main()
