"""Two minutes that tell whether speed has changed: `python benchmarks/check.py`.

FLy, native, plain decoding by our engine, and the target's `generate` decode the same prompts with
the embedded pair, in one process, block by block in rotating order.  Their ratios are compared
with the stored bands, and a ratio outside its band ends the command with 1.  `native again` by
`native` (A/A) has a band, too: outside it the machine was too busy for this run to say anything.
Time is the process's own, on one thread and with prefill: neighbours on the machine disturb it less
than wall time.  A new kind of machine needs bands of its own: `--store`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocks import (
    Block,
    Method,
    Pair,
    Prompts,
    Timed,
    engine,
    interval,
    parsed,
    parser,
    plain_generate,
    ratio,
    run_blocks,
    save,
    total,
)

from fly.demo.problems import heldout

SEED = 303
BLOCKS, ROWS = 10, 12  # a block is one batch
CONTROL = "native again / native (A/A)"
RATIOS = {
    "fly / native": ("fly", "native"),
    "native / plain": ("native", "plain"),
    "plain / generate": ("plain", "generate"),
    CONTROL: ("native again", "native"),
}
Ratios = Mapping[str, Mapping[str, Any]]
Bands = Mapping[str, tuple[float, float]]


def own_time(method: Method) -> Method:
    """The same, timed by what the process itself took."""

    def run(prompts: Prompts) -> Timed:
        begin = time.process_time()
        done = method(prompts)
        return replace(done, seconds=time.process_time() - begin)

    return run


def measure(num_blocks: int) -> list[dict[str, Timed]]:
    """All methods over held-out problems, a third of them functions, as in the tasks."""
    pair, count = Pair(), num_blocks * ROWS
    problems = [
        *heldout("arithmetic", count - count // 3, SEED),
        *heldout("code", count // 3, SEED),
    ]
    random.Random(SEED).shuffle(problems)
    methods = {
        "fly": engine(pair, ROWS),
        "native": engine(pair, ROWS, acceptance="native"),
        "native again": engine(pair, ROWS, acceptance="native"),
        "plain": engine(pair, ROWS, use_sd=False),
        "generate": plain_generate(pair, ROWS),
    }
    timed = {name: own_time(method) for name, method in methods.items()}
    prompts = [pair.encode(problem.prompt) for problem in problems]
    return run_blocks(timed, prompts, num_blocks, ROWS)


def judge(found: Ratios, bands: Bands) -> bool:
    """Print every ratio beside its band; whether all lie inside."""
    outside = []
    for title, one in found.items():
        low, high = bands[title]
        if not low <= one["estimate"] <= high:
            outside.append(title)
        word = "OUTSIDE" if title in outside else "inside"
        print(f"{title:<28} {interval(one)}  {word} {low:.2f} to {high:.2f}")
    if CONTROL in outside:
        print("two equal methods differ: the machine was too busy for this run to say anything")
    return not outside


def bands_around(found: Ratios, share: float) -> Bands:
    """A band of this reach around every ratio; the control's is around 1."""
    middles = {title: one["estimate"] for title, one in found.items()} | {CONTROL: 1.0}
    return {title: (m / (1 + share), m * (1 + share)) for title, m in middles.items()}


def ratios(blocks: Sequence[Block]) -> dict[str, dict[str, Any]]:
    """Tokens per second of one method by another's."""
    return {title: ratio(blocks, *pair) for title, pair in RATIOS.items()}


def main() -> None:
    """Measure, compare, and end with 1 where a ratio is outside its band."""
    options = parser(__doc__, "check.json")
    options.add_argument("--blocks", type=int, default=BLOCKS, help="fewer than 5: no intervals")
    options.add_argument(
        "--store", type=float, metavar="SHARE", help="first write bands of this reach, as 0.12"
    )
    arguments = parsed(options)
    blocks = measure(arguments.blocks)
    speeds = (f"{name} {total(blocks, name).tokens_per_s:.0f}" for name in blocks[0])
    print("tokens/s:", ", ".join(speeds))
    found = ratios(blocks)
    if arguments.store is not None:
        raw = [{name: [t.num_tokens, t.seconds] for name, t in block.items()} for block in blocks]
        bands = bands_around(found, arguments.store)
        save(arguments.output, {"bands": bands, "ratios": found, "blocks": raw})
    stored = json.loads(Path(arguments.output).read_text(encoding="utf-8"))
    sys.exit(0 if judge(found, stored["bands"]) else 1)


if __name__ == "__main__":
    main()
