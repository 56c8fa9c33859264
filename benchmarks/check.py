"""Two minutes that tell whether speed has changed: `python benchmarks/check.py`.

FLy, native, plain decoding by our engine, and the target's `generate` decode the same prompts with
the embedded pair, in one process, block by block in rotating order.  Their ratios are compared
with the stored bands, and a ratio outside its band ends the command with 1.  `native again` by
`native` (A/A) has a band, too: outside it the machine was too busy for this run to say anything.
Time is the process's own, on one thread and with prefill: neighbours on the machine disturb it less
than wall time.  A new kind of machine needs bands of its own: `--store`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fly import FLyConfig, SpeculativeDecoder
from fly.demo import DRAFT_PATH, TARGET_PATH
from fly.demo.problems import heldout
from fly.evaluation import environment
from fly.stats.speed import speed_ratio

CONTROL = "native again / native (A/A)"
SEED, MAX_NEW_TOKENS = 303, 192
BLOCKS, ROWS = 10, 12  # a block is one batch
SETTINGS: dict[str, dict[str, Any]] = {
    "fly": {},
    "native": {"acceptance": "native"},
    "native again": {"acceptance": "native"},
    "plain": {"use_sd": False},
}
RATIOS = {
    "fly / native": ("fly", "native"),
    "native / plain": ("native", "plain"),
    "plain / generate": ("plain", "generate"),
    CONTROL: ("native again", "native"),
}
Prompts = Sequence[list[int]]
Method = Callable[[Prompts], int]  # decodes, and returns the number of answer tokens
Block = dict[str, tuple[int, float]]  # tokens and seconds by method
Ratio = tuple[float, float | None, float | None]  # and the ends of its interval


def load() -> tuple[Any, dict[str, Method]]:
    """The tokenizer, and every way of decoding over the same two models."""
    tokenizer = AutoTokenizer.from_pretrained(TARGET_PATH, padding_side="left")
    target, draft = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (TARGET_PATH, DRAFT_PATH)
    )

    def generate(prompts: Prompts) -> int:
        width = max(map(len, prompts))
        inputs = tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        with torch.inference_mode():
            output = target.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        is_end = (output[:, width:] == tokenizer.eos_token_id).long()
        return int((is_end.cumsum(-1) - is_end == 0).sum())  # the end token included

    def ours(settings: Mapping[str, Any]) -> Method:
        config = FLyConfig(**settings)
        decoder = SpeculativeDecoder(target, draft, tokenizer, config, batch_size=ROWS)

        def decode(prompts: Prompts) -> int:
            results = decoder.generate(prompts, max_new_tokens=MAX_NEW_TOKENS)
            return sum(len(result.token_ids) for result in results)

        return decode

    methods = {name: ours(settings) for name, settings in SETTINGS.items()}
    return tokenizer, methods | {"generate": generate}


def measure(methods: Mapping[str, Method], blocks: Sequence[Prompts]) -> list[Block]:
    """All methods over all blocks, after a warm-up."""
    for method in methods.values():
        method(blocks[0][:2])
    names, measured = list(methods), []
    for turn, prompts in enumerate(blocks):
        first = turn % len(names)
        block: Block = {}
        for name in names[first:] + names[:first]:
            begin = time.process_time()
            num_tokens = methods[name](prompts)
            block[name] = num_tokens, time.process_time() - begin
        speeds = (f"{name} {block[name][0] / block[name][1]:.0f}" for name in names)
        print(f"block {turn}, tokens/s:", ", ".join(speeds), flush=True)
        measured.append(block)
    return measured


def ratios(blocks: Sequence[Block]) -> dict[str, Ratio]:
    """Tokens per second of one method by another's."""
    found = {}
    for title, pair in RATIOS.items():
        columns = [[block[name][part] for block in blocks] for name in pair for part in (0, 1)]
        ratio = speed_ratio(*columns)
        found[title] = ratio.estimate or 0.0, ratio.low, ratio.high
    return found


def judge(found: Mapping[str, Ratio], bands: Mapping[str, tuple[float, float]]) -> bool:
    """Print every ratio beside its band; whether all lie inside."""
    outside = []
    for title, (estimate, *ends) in found.items():
        low, high = bands[title]
        if not low <= estimate <= high:
            outside.append(title)
        interval = " to ".join("-" if end is None else f"{end:.2f}" for end in ends)
        word = "OUTSIDE" if title in outside else "inside"
        print(f"{title:<28}{estimate:6.2f} ({interval})  {word} {low:.2f} to {high:.2f}")
    if CONTROL in outside:
        print("two equal methods differ: the machine was too busy for this run to say anything")
    return not outside


def bands_around(found: Mapping[str, Ratio], share: float) -> dict[str, tuple[float, float]]:
    """A band of this reach around every ratio; the control's is around 1."""
    middles = {title: estimate for title, (estimate, *_) in found.items()} | {CONTROL: 1.0}
    return {title: (m / (1 + share), m * (1 + share)) for title, m in middles.items()}


def draw_prompts(count: int) -> list[str]:
    """Held-out problems, a third of them functions, as in the tasks."""
    num_code = count // 3
    problems = [*heldout("arithmetic", count - num_code, SEED), *heldout("code", num_code, SEED)]
    random.Random(SEED).shuffle(problems)
    return [problem.prompt for problem in problems]


def main() -> None:
    """Measure, compare, and end with 1 where a ratio is outside its band."""
    stored = Path(__file__).parent / "results" / "check.json"
    parser = argparse.ArgumentParser(prog="python benchmarks/check.py", description=__doc__)
    parser.add_argument("--bands", type=Path, default=stored, help="a file as --store writes it")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="fewer than 5: no intervals")
    parser.add_argument(
        "--store", type=float, metavar="SHARE", help="first write bands of this reach, as 0.12"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, methods = load()
    prompts = [tokenizer(text).input_ids for text in draw_prompts(arguments.blocks * ROWS)]
    blocks = measure(
        methods, [prompts[start : start + ROWS] for start in range(0, len(prompts), ROWS)]
    )
    found = ratios(blocks)
    if arguments.store is not None:
        report = environment.describe() | {"bands": bands_around(found, arguments.store)}
        report |= {"ratios": found, "blocks": blocks}
        arguments.bands.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    bands = json.loads(arguments.bands.read_text(encoding="utf-8"))["bands"]
    sys.exit(0 if judge(found, bands) else 1)


if __name__ == "__main__":
    main()
