"""Our engine against transformers on a real model, without a second one: `python
benchmarks/real_speed.py`.

SmolLM2-135M in float32 over chat prompts, greedy, block by block in rotating order: plain decoding
and `generate` at batch 1 and 8; at batch 1 native `ngram` and `suffix` and transformers' prompt
lookup of 3 and 10 tokens.  `self` in 8 bits, of adaptive length, by plain decoding: in every run
with a decoder that has learned nothing, for its first 256 tokens, the later ones and the whole.
Plain decoding runs twice (A/A).  Whole wall time with prefill; compiling comes before the first
block and is counted apart.  Texts are compared with those of `generate`.
"""

from __future__ import annotations

import argparse
import operator
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import smollm2
from blocks import (
    Block,
    Method,
    Prompts,
    Timed,
    bar,
    interleave,
    parsed,
    parser,
    plain_generate,
    ratio,
    run_blocks,
    save,
    shown,
    total,
)
from chat import PROMPTS, encode
from lengths import dealt, method

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.workbench.divergence import compare

Wanted = tuple[tuple[str, str, float | None], ...]  # methods, baselines, bars

PLAIN, AGAIN, GENERATE, SELF = "plain", "plain again", "generate", "self int8"
NATIVE: dict[str, Any] = {"acceptance": "native"}
IN_INT8 = {"drafter": "self", "drafter_settings": {"how": "int8"}}
OURS: dict[str, dict[str, Any]] = {
    PLAIN: {"use_sd": False},
    AGAIN: {"use_sd": False},
    "ngram": NATIVE | {"drafter": "ngram"},
    "suffix": NATIVE | {"drafter": "suffix"},
    SELF: NATIVE | IN_INT8 | {"draft_length": "adaptive"},
}
SHARED = ("compile", "packed")  # settings of them all
COPYING = ("ngram", "suffix")
LOOKUPS = {"prompt lookup 3": 3, "prompt lookup 10": 10}
BEST = {"our lookup": COPYING, "prompt lookup": tuple(LOOKUPS)}
RUN = (PLAIN, AGAIN, SELF)
WIDE = 8
LEARNING = 256  # tokens of a run, after which its speed is judged
# Each with its bar, which holds on AMD; elsewhere it is published beside it.
BOTH: Wanted = ((PLAIN, GENERATE, 1.3), (AGAIN, PLAIN, None))
LOOKING_UP: Wanted = tuple((name, "prompt lookup", None) for name in COPYING)
BARS = {1: (*BOTH, ("our lookup", "prompt lookup", 1.6), *LOOKING_UP), WIDE: BOTH}
PARTS: dict[str, float | None] = {"first": None, "later": 0.97, "whole": None}


class Model:
    """SmolLM2 with our engine and transformers' `generate` around it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Load it, and have kernels chosen."""
        self.target, self.tokenizer = smollm2.load()
        self.tokenizer.padding_side = "left"
        self.prompts = [encode(self.tokenizer, prompt) for prompt in PROMPTS]
        self.tokens, self.num_drafted = arguments.tokens, arguments.spd_k
        self.shared = {key: getattr(arguments, key) for key in SHARED}
        plain = FLyConfig(**OURS[PLAIN], **self.shared)
        self.first = SpeculativeDecoder(self.target, None, self.tokenizer, plain)

    def fresh(self, name: str, size: int) -> SpeculativeDecoder:
        """A decoder that has learned nothing yet."""
        k = {} if "use_sd" in OURS[name] else {"spd_k": self.num_drafted}
        config = FLyConfig(**OURS[name], **k, **self.shared)
        return self.first.with_config(config, batch_size=size)

    def methods(self, size: int) -> dict[str, Method]:
        """All but `self`."""
        names = (PLAIN, AGAIN, *(COPYING if size == 1 else ()))
        theirs = {GENERATE: None} | (LOOKUPS if size == 1 else {})
        pair: Any = self  # has what `generate` needs
        options = {"max_new_tokens": self.tokens}
        return {name: method(self.fresh(name, size), self.tokens) for name in names} | {
            name: plain_generate(pair, size, **options, prompt_lookup_num_tokens=k)
            for name, k in theirs.items()
        }

    def run(self, size: int, count: int, turn: int) -> dict[str, dict[str, Timed]]:
        """So many prompts, one batch after the other: by part, by method."""
        decoders = {name: self.fresh(name, size) for name in RUN}
        order = [self.prompts[(turn * count + at) % len(PROMPTS)] for at in range(count)]
        parts = {part: dict.fromkeys(RUN, Timed([], 0.0)) for part in PARTS}
        for place in range(0, count, size):
            is_later = parts["whole"][SELF].num_tokens >= LEARNING
            tokens = self.tokens if is_later else LEARNING // size
            methods = {name: method(decoder, tokens) for name, decoder in decoders.items()}
            done = interleave(methods, [order[place : place + size]], turn + place // size)
            for part in ("whole", "later" if is_later else "first"):
                parts[part] = {name: parts[part][name] + done[name] for name in RUN}
        return parts


def same_texts(model: Model, asked: Prompts, blocks: Sequence[Block]) -> dict[str, Any]:
    """Answers of every method by those of `generate`: equal, tie, different."""
    answers = {name: total(blocks, name).answers for name in blocks[0]}
    own = answers.pop(GENERATE)
    return {
        name: Counter(compare(model.target, *each) for each in zip(asked, own, other, strict=True))
        for name, other in answers.items()
    }


def report(title: str, blocks: Sequence[Block], wanted: Wanted) -> dict[str, Any]:
    """Ratios, which are printed, speeds, and what they were made of."""
    ratios: dict[str, Any] = {}
    for name, baseline, least in wanted:
        found = {"ratio": ratio(blocks, name, baseline)}
        found = ratios[f"{name} / {baseline}"] = found if least is None else bar(found, least)
        print(f"{title}: {name} / {baseline}: {shown(found)}", flush=True)
    pooled = {name: total(blocks, name) for name in blocks[0]}
    return {
        "ratios": ratios,
        "tokens_per_s": {name: one.tokens_per_s for name, one in pooled.items()},
        "counters": {name: asdict(one.statistics) for name, one in pooled.items()},
        "tokens": {name: [block[name].num_tokens for block in blocks] for name in pooled},
        "seconds": {name: [block[name].seconds for block in blocks] for name in pooled},
    }


def measure(model: Model, size: int, num_blocks: int) -> dict[str, Any]:
    """Against transformers, at one batch size."""
    dealt_out = [dealt(model.prompts, size, turn) for turn in range(num_blocks)]
    mixed = [prompt for column in zip(*dealt_out, strict=True) for prompt in column]
    blocks: list[Block] = [*run_blocks(model.methods(size), mixed, num_blocks, size)]
    texts = same_texts(model, [*chain.from_iterable(dealt_out)], blocks)
    best: dict[str, str] = {}
    for name, names in BEST.items() if size == 1 else ():
        best[name] = max(names, key=lambda each: total(blocks, each).tokens_per_s)
        blocks = [{**block, name: block[best[name]]} for block in blocks]
    print(f"batch {size}: {best}, texts {texts}")
    return report(f"batch {size}", blocks, BARS[size]) | {"best": best, "texts": texts}


def measure_self(model: Model, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs of `self` by plain decoding, at one batch size."""
    count = max(arguments.prompts, 4 * size)
    runs = [model.run(size, count, turn) for turn in range(arguments.runs)]
    found = {}
    for part, least in PARTS.items():
        wanted: Wanted = ((SELF, PLAIN, least), (AGAIN, PLAIN, None))
        found[part] = report(f"batch {size}, {part} tokens", [run[part] for run in runs], wanted)
    own, plain = ([run["whole"][name].answers for run in runs] for name in (SELF, PLAIN))
    return found | {"runs_with_plain_texts": sum(map(operator.eq, own, plain))}


def main() -> None:
    """Measure, print and save, part by part."""
    arguments = parsed(command_line())
    begin, model = time.perf_counter(), Model(arguments)
    first = {  # kernels are chosen, and steps compiled
        f"{name}, batch {size}": method(model.fresh(name, size), 8)(model.prompts[:size])
        for size in (1, WIDE)
        for name in OURS
    }
    spent = {name: done.statistics.seconds_compile for name, done in first.items()}
    asked = {key: value for key, value in vars(arguments).items() if key != "output"}
    known = {"model": smollm2.FILE, "settings": OURS, "options": asked, "seconds_compile": spent}
    for size in (1, WIDE):
        known[f"batch {size}"] = measure(model, size, arguments.blocks)
        known[f"self, batch {size}"] = measure_self(model, size, arguments)
        save(arguments.output, known, embedded=False)
        print(f"{time.perf_counter() - begin:.0f} s", flush=True)


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    options = parser(__doc__, "real_speed.json")
    for name in SHARED:
        options.add_argument(f"--{name}", default="auto", choices=("auto", "on", "off"))
    options.add_argument("--blocks", type=int, default=16, help="of 2 prompts, or of a batch")
    options.add_argument("--runs", type=int, default=5, help="of `self`, each of one decoder")
    options.add_argument(
        "--prompts", type=int, default=16, help="of a run at batch 1; at 8 it has 32"
    )
    options.add_argument("--tokens", type=int, default=128, help="new tokens of an answer, at most")
    options.add_argument("--spd_k", type=int, default=10)
    return options


if __name__ == "__main__":
    main()
