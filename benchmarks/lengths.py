"""Fixed and adaptive draft lengths without a draft model, by plain decoding, on a real model:
`python benchmarks/lengths.py`.

Plain decoding, and `ngram`, `suffix` and `self` with native acceptance, each at a fixed and at an
adaptive length, at batch 1, 8 and 32.  Methods take turns over the same prompts, in an order that
rotates from block to block; whole wall time, prefill included, and what adaptive lengths spend on
learning, too.  Plain decoding runs twice in every block: the ratio of the two is the noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import smollm2
from blocks import (
    Block,
    Method,
    Prompts,
    interleave,
    interval,
    load,
    parsed,
    parser,
    ratio,
    save,
    timed,
    total,
)
from chat import PROMPTS, encode
from transformers import AutoTokenizer

from fly.config import FLyConfig
from fly.engine import Result, SpeculativeDecoder

SIZES = (1, 8, 32)
ALONE = 2  # prompts of a block at batch 1
PLAIN, AGAIN = "plain", "plain again"
LENGTHS = ("fixed", "adaptive")
WARM_UP = 4  # tokens


def settings(num_layers: int, left_out: int, k: int) -> dict[str, dict[str, object]]:
    """Every method's, by its name; the layers that `self` leaves out are spread evenly."""
    inner = range(2, num_layers - 2)
    skipped = [inner[len(inner) * place // left_out] for place in range(left_out)]
    own: dict[str, dict[str, object]] = {
        "ngram": {},
        "suffix": {},
        "self": {"drafter_settings": {"left_out": skipped}},
    }
    plain: dict[str, object] = {"use_sd": False}
    native: dict[str, object] = {"acceptance": "native", "spd_k": k}
    return {PLAIN: plain, AGAIN: plain} | {
        f"{name} {length}": native | {"drafter": name, "draft_length": length} | more
        for name, more in own.items()
        for length in LENGTHS
    }


def method(decoder: SpeculativeDecoder, num_tokens: int) -> Method:
    """A decoder whose caches others may use behind each call."""

    def decode(prompts: Prompts) -> list[Result]:
        try:
            return decoder.generate(prompts, max_new_tokens=num_tokens)
        finally:
            decoder.release()

    return timed(decode)


def dealt(prompts: Prompts, batch_size: int, turn: int) -> list[list[int]]:
    """A block's prompts: other ones from block to block, till all had their turn."""
    count = ALONE if batch_size == 1 else batch_size
    return [prompts[(turn * count + place) % len(prompts)] for place in range(count)]


def report(blocks: Sequence[Block]) -> dict[str, Any]:
    """Speeds, their ratios to plain decoding, and what was decided."""
    found: dict[str, Any] = {}
    for name in blocks[0]:
        pooled = total(blocks, name).statistics
        found[name] = {
            "tokens_per_s": total(blocks, name).tokens_per_s,
            "by_plain": ratio(blocks, name, PLAIN),
            "blocks_with_plain_text": sum(
                block[name].answers == block[PLAIN].answers for block in blocks
            ),
            "rounds": pooled.rounds,  # of single rows
            "plain_rounds": pooled.plain,
            "acceptance_rate": pooled.metrics()["acceptance_rate"],
            "timed_in_between": {"rounds": pooled.timed_rounds, "by_plain": pooled.by_plain},
            "tokens": [block[name].num_tokens for block in blocks],
            "seconds": [block[name].seconds for block in blocks],
        }
    return found


def line(batch_size: int, found: Mapping[str, Any]) -> str:
    """One line for people."""
    parts = [f"{name} {interval(one['by_plain'])}" for name, one in found.items()]
    return f"batch {batch_size}, tokens/s by plain: {', '.join(parts)}"


def main() -> None:
    """Measure, print and save, block by block."""
    arguments = parsed(command_line())
    if arguments.model is None:
        name, (model, tokenizer) = smollm2.FILE, smollm2.load()
    else:
        name, model = Path(arguments.model).name, load(arguments.model)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    prompts = [encode(tokenizer, prompt) for prompt in PROMPTS]
    num_layers = model.config.get_text_config().num_hidden_layers
    chosen = settings(num_layers, arguments.left_out, arguments.spd_k)
    first = SpeculativeDecoder(model, None, tokenizer, FLyConfig(**chosen[PLAIN]))
    methods = {
        size: {
            name: method(first.with_config(FLyConfig(**own), batch_size=size), arguments.tokens)
            for name, own in chosen.items()
        }
        for size in arguments.sizes
    }
    for own in chosen.values():  # kernels are chosen, the draft is made
        method(first.with_config(FLyConfig(**own)), WARM_UP)(prompts[:2])
    blocks: dict[int, list[Block]] = {size: [] for size in arguments.sizes}
    begin = time.perf_counter()
    for turn in range(arguments.blocks):
        for size in arguments.sizes:
            blocks[size].append(interleave(methods[size], [dealt(prompts, size, turn)], turn))
            print(line(size, report(blocks[size])), flush=True)
        saved = {
            "model": {"name": name, "layers": num_layers},
            "settings": chosen,
            "max_new_tokens": arguments.tokens,
            "prompts": len(prompts),
            "batch": {str(size): report(own) for size, own in blocks.items() if own},
        }
        save(arguments.output, saved, embedded=False)
        print(f"{turn + 1} blocks in {time.perf_counter() - begin:.0f} s", flush=True)


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    options = parser(__doc__, "lengths.json", threads=2)
    options.add_argument("--model", help="folder of a causal model that chats; else SmolLM2")
    options.add_argument("--tokens", type=int, default=32, help="new tokens of an answer, at most")
    options.add_argument("--blocks", type=int, default=5, help="fewer than 5 give no intervals")
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of the batches")
    options.add_argument("--spd_k", type=int, default=10)
    options.add_argument("--left_out", type=int, default=8, help="layers that self leaves out")
    return options


if __name__ == "__main__":
    main()
