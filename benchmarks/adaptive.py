"""Adaptive draft length by the best fixed one: `python benchmarks/adaptive.py`.

The embedded pair, FLy, one thread.  The best fixed K is searched on other prompts than it is
measured on, at batch 1 and at a large batch, and for a mix of easy and hard prompts; besides, a
draft of random weights by plain decoding.  Methods take turns over the same prompts, in an order
that rotates; whole wall time, prefill included.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import environment
import torch
from intervals import ratio_over_blocks
from methods import Pair, Timed, engine, interleave, total

from fly.demo.problems import heldout

SEARCH_SEED, MEASURE_SEED = 811, 812
LENGTHS = (4, 6, 8, 10, 12, 15, 20, 25)
WINDOW = 6  # W; at K <= W nothing is loosened
SEARCH_BLOCKS = 3  # a single one of a large batch is too noisy to find the best
FILLS = 4  # times that the prompts of one call fill a large batch: ended rows are replaced
BARS = {"batch 1": 0.98, "large batch": 0.98, "easy and hard": 1.05, "hopeless draft": 0.95}
Prompts = list[list[int]]


def mixed(pair: Pair, count: int, seed: int) -> Prompts:
    """Both tasks' problems, as many of each."""
    problems = [*heldout("arithmetic", count // 2, seed), *heldout("code", count // 2, seed)]
    random.Random(seed).shuffle(problems)
    return [pair.encode(problem.prompt) for problem in problems]


def easy_and_hard(pair: Pair, count: int, seed: int) -> Prompts:
    """Problems as they are, and as many with their words in disorder, which neither model has seen:
    there they agree on little.
    """
    rng = random.Random(seed)
    prompts = []
    for index, problem in enumerate(heldout("arithmetic", count, seed)):
        words = problem.prompt.split(" ")
        if index % 2:
            rng.shuffle(words)
        prompts.append(pair.encode(" ".join(words)))
    return prompts


def measured(
    methods: dict[str, Callable[[Prompts], Timed]], prompts: Prompts, num_blocks: int, size: int
) -> list[dict[str, Timed]]:
    """Blocks of all methods over the same prompts, `size` at a time."""
    for method in methods.values():
        method(prompts[:size])
    blocks = []
    for turn in range(num_blocks):
        mine = prompts[turn::num_blocks]
        slices = [mine[start : start + size] for start in range(0, len(mine), size)]
        blocks.append(interleave(methods, slices, turn))
    return blocks


def fixed(pair: Pair, batch_size: int, lengths: Sequence[int]) -> dict[str, object]:
    """FLy at these lengths."""
    return {f"K={k}": engine(pair, batch_size, spd_k=k, win_len=min(WINDOW, k)) for k in lengths}


def adaptive(pair: Pair, batch_size: int) -> Callable[[Prompts], Timed]:
    """FLy at as many tokens as pay; what is learned from one call holds for the next."""
    return engine(pair, batch_size, spd_k=max(LENGTHS), draft_length="adaptive")


def experiment(
    pair: Pair,
    batch_size: int,
    draw: Callable[[Pair, int, int], Prompts],
    sizes: tuple[int, int],
    num_blocks: int,
) -> dict[str, object]:
    """Search the best fixed length, then compare."""
    searched, count = sizes
    size = 1 if batch_size == 1 else FILLS * batch_size
    candidates = fixed(pair, batch_size, LENGTHS)
    found = measured(candidates, draw(pair, searched, SEARCH_SEED), SEARCH_BLOCKS, size)
    speeds = {name: total(found, name).tokens_per_s for name in candidates}
    best = max(speeds, key=speeds.__getitem__)
    methods = {
        best: engine(pair, batch_size, spd_k=int(best[2:]), win_len=min(WINDOW, int(best[2:]))),
        "adaptive": adaptive(pair, batch_size),
    }
    blocks = measured(methods, draw(pair, count, MEASURE_SEED), num_blocks, size)
    return {"searched": speeds, **compared(blocks, "adaptive", best)}


def compared(blocks: list[dict[str, Timed]], method: str, baseline: str) -> dict[str, object]:
    """Tokens per second of one by the other's, and their counters."""
    ratio = ratio_over_blocks(
        [block[method].tokens_per_s for block in blocks],
        [block[baseline].tokens_per_s for block in blocks],
    )
    sums = {}
    for name in (method, baseline):
        timed = total(blocks, name)
        assert timed.statistics is not None
        sums[name] = {
            "tokens_per_s": timed.tokens_per_s,
            **timed.statistics.metrics(),
            "rounds": timed.statistics.rounds,
            "proposed": timed.statistics.proposed,
            "plain": timed.statistics.plain,
        }
    return {"baseline": baseline, "ratio": ratio.to_dict(), "methods": sums}


def hopeless(pair: Pair, count: int, num_blocks: int) -> dict[str, object]:
    """A draft of random weights by plain decoding, at batch 1."""
    weights = {name: value.clone() for name, value in pair.draft.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in pair.draft.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * value.std())
    methods = {
        "adaptive": engine(pair, 1, draft_length="adaptive"),
        "plain": engine(pair, 1, use_sd=False),
    }
    blocks = measured(methods, mixed(pair, count, MEASURE_SEED), num_blocks, 1)
    pair.draft.load_state_dict(weights)
    return compared(blocks, "adaptive", "plain")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=48, help="of every comparison at batch 1")
    parser.add_argument("--large", type=int, default=32, help="rows of the large batch")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=list(BARS), choices=list(BARS))
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results/adaptive.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pair, blocks, count = Pair(), arguments.blocks, arguments.prompts
    large = arguments.large
    full = FILLS * large
    runs: dict[str, Callable[[], dict[str, object]]] = {
        "batch 1": lambda: experiment(pair, 1, mixed, (count // 2, count), blocks),
        "large batch": lambda: experiment(
            pair, large, mixed, (SEARCH_BLOCKS * full, full * blocks), blocks
        ),
        "easy and hard": lambda: experiment(pair, 1, easy_and_hard, (count // 2, count), blocks),
        "hopeless draft": lambda: hopeless(pair, count // 2, blocks),
    }
    saved = environment.describe() | {"large_batch": large}
    for name in arguments.only:
        found = runs[name]()
        ratio = found["ratio"]
        assert isinstance(ratio, dict)
        found["bar"] = {"at_least": BARS[name], "met": ratio["low"] >= BARS[name]}
        print(
            f"{name}: {ratio['estimate']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] of "
            f"{found['baseline']}, at least {BARS[name]}",
            flush=True,
        )
        saved[name] = found
        arguments.output.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
