"""Texts compiled and eager: `python benchmarks/compiled_texts.py`.

The embedded pair answers held-out problems, native and with FLy (settings of demo.json), at batch
1, 32 and 128, with compiled forwards and packed weights where they pay, and with neither.  Equal
answers are counted; a first difference is a tie where the target's two best logits nearly agree.
Nothing is timed, so the problems are shared out among processes of one thread.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from blocks import (
    MAX_NEW_TOKENS,
    Answers,
    Pair,
    Prompts,
    engine,
    parsed,
    parser,
    same_texts,
    save,
    share_out,
)
from cpu import draw_problems
from steps import EAGER, METHODS

SEED = 909
BATCHES = (1, 32, 128)
COMPARED = ("native", "fly")
Counts = dict[str, dict[str, int]]


def compare_share(batches: list[int], prompts: Prompts) -> Counts:
    """One process's share."""
    torch.set_num_threads(1)
    pair, found = Pair(), {}
    for batch_size in batches:
        for name in COMPARED:
            settings: dict[str, Any] = METHODS[name]
            compiled = answers_compiled(pair, batch_size, prompts, **settings)
            eager = engine(pair, batch_size, **EAGER, **settings)(prompts).answers
            title = f"{name}, batch {batch_size}"
            found[title] = same_texts(pair.target, prompts, eager, compiled)
            print(title, found[title], flush=True)
    return found


def answers_compiled(pair: Pair, batch_size: int, prompts: Prompts, **settings: Any) -> Answers:
    """Answers by compiled forwards.

    Raises:
        SystemExit: a model's were not compiled, so nothing would be compared.
    """
    decoder = pair.decoder(batch_size, compile="on", **settings)
    results = decoder.generate(prompts, max_new_tokens=MAX_NEW_TOKENS)
    told = decoder.compiled.told
    if set(told.values()) != {"compiled"}:
        raise SystemExit(f"not compiled: {told}")
    return [result.token_ids for result in results]


def added(shares: list[Counts]) -> Counts:
    """All processes' counts."""
    return {
        title: dict(sum((Counter(share[title]) for share in shares), Counter()))
        for title in shares[0]
    }


def main() -> None:
    """Decode, compare, print and save."""
    options = parser(__doc__, "compiled_texts.json")
    options.add_argument("--problems", type=int, default=1000)
    options.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    options.add_argument("--processes", type=int, default=2)
    arguments = parsed(options)
    pair = Pair()
    prompts = [pair.encode(one.prompt) for one in draw_problems(arguments.problems, SEED)]
    compared = partial(compare_share, arguments.batches)
    found = added(share_out(compared, prompts, arguments.processes))
    save(arguments.output, {"problems": len(prompts), "texts": found})
    for title, counts in found.items():
        print(f"{title}: {counts}")


if __name__ == "__main__":
    main()
