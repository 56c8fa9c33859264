"""Adaptive draft length by the best fixed one: `python benchmarks/adaptive.py`.

The embedded pair, FLy.  The best fixed K is searched on other prompts than it is measured on, at
batch 1 and at a large batch, and for a mix of easy and hard prompts; besides, a draft of random
weights by plain decoding.  The baseline runs twice in every block: that ratio (A/A) is the noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from blocks import (
    Method,
    Pair,
    Prompts,
    bar,
    engine,
    parsed,
    parser,
    problems,
    ratio,
    run_blocks,
    save,
    shown,
    total,
)

from fly.demo.problems import heldout

SEARCH_SEED, MEASURE_SEED = 811, 812
LENGTHS = (4, 6, 8, 10, 12, 15, 20, 25)
WINDOW = 6  # W; at K <= W nothing is loosened
SEARCH_BLOCKS = 3  # a single one of a large batch is too noisy to find the best
FILLS = 4  # times that the prompts of one call fill a large batch: ended rows are replaced
BARS = {"batch 1": 0.98, "large batch": 0.98, "easy and hard": 1.05, "hopeless draft": 0.95}
ADAPTIVE = "adaptive"


def mixed(pair: Pair, count: int, seed: int) -> Prompts:
    """Both tasks' problems, as many of each."""
    return [pair.encode(problem.prompt) for problem in problems(count, seed)]


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


def fixed(pair: Pair, batch_size: int, k: int) -> Method:
    """FLy at this length."""
    return engine(pair, batch_size, spd_k=k, win_len=min(WINDOW, k))


def experiment(
    pair: Pair,
    batch_size: int,
    draw: Callable[[Pair, int, int], Prompts],
    sizes: tuple[int, int],
    num_blocks: int,
) -> dict[str, object]:
    """Search the best fixed length, then compare."""
    size = 1 if batch_size == 1 else FILLS * batch_size
    candidates = {f"K={k}": fixed(pair, batch_size, k) for k in LENGTHS}
    found = run_blocks(candidates, draw(pair, sizes[0], SEARCH_SEED), SEARCH_BLOCKS, size)
    speeds = {name: total(found, name).tokens_per_s for name in candidates}
    best = max(speeds, key=speeds.__getitem__)
    method = engine(pair, batch_size, spd_k=max(LENGTHS), draft_length="adaptive")
    prompts = draw(pair, sizes[1], MEASURE_SEED)
    return {"searched": speeds} | compared(
        method, best, candidates[best], prompts, num_blocks, size
    )


def compared(
    method: Method, name: str, baseline: Method, prompts: Prompts, num_blocks: int, size: int
) -> dict[str, object]:
    """Tokens per second of the adaptive length by the baseline's, the noise, and their counters."""
    again = f"{name} again"
    methods = {ADAPTIVE: method, name: baseline, again: baseline}
    blocks = run_blocks(methods, prompts, num_blocks, size)
    sums = {}
    for one in (ADAPTIVE, name):
        done = total(blocks, one)
        counts = done.statistics
        sums[one] = {"tokens_per_s": done.tokens_per_s, **counts.metrics()}
        sums[one] |= {key: getattr(counts, key) for key in ("rounds", "proposed", "plain")}
    return {
        "baseline": name,
        "ratio": ratio(blocks, ADAPTIVE, name),
        "a_a": ratio(blocks, again, name),
        "methods": sums,
    }


def hopeless(pair: Pair, count: int, num_blocks: int) -> dict[str, object]:
    """A draft of random weights by plain decoding, at batch 1."""
    weights = {name: value.clone() for name, value in pair.draft.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in pair.draft.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * value.std())
    method, plain = engine(pair, 1, draft_length="adaptive"), engine(pair, 1, use_sd=False)
    prompts = mixed(pair, count, MEASURE_SEED)
    found = compared(method, "plain", plain, prompts, num_blocks, 1)
    pair.draft.load_state_dict(weights)
    return found


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "adaptive.json")
    options.add_argument("--prompts", type=int, default=48, help="of every comparison at batch 1")
    options.add_argument("--large", type=int, default=32, help="rows of the large batch")
    options.add_argument("--blocks", type=int, default=8)
    options.add_argument("--only", nargs="+", default=list(BARS), choices=list(BARS))
    arguments = parsed(options)
    pair, blocks, count = Pair(), arguments.blocks, arguments.prompts
    large, full = arguments.large, FILLS * arguments.large
    runs: dict[str, Callable[[], dict[str, object]]] = {
        "batch 1": lambda: experiment(pair, 1, mixed, (count // 2, count), blocks),
        "large batch": lambda: experiment(
            pair, large, mixed, (SEARCH_BLOCKS * full, full * blocks), blocks
        ),
        "easy and hard": lambda: experiment(pair, 1, easy_and_hard, (count // 2, count), blocks),
        "hopeless draft": lambda: hopeless(pair, count // 2, blocks),
    }
    saved: dict[str, object] = {"large_batch": large}
    for name in arguments.only:
        saved[name] = found = bar(runs[name](), BARS[name])
        print(f"{name}: {shown(found)} of {found['baseline']}", flush=True)
        save(arguments.output, saved)


if __name__ == "__main__":
    main()
