"""Fixed and adaptive draft lengths without a draft model, by plain decoding, on a real model:
`python benchmarks/lengths.py`.

Plain decoding, and `ngram`, `suffix` and `self` with native acceptance, each at a fixed and at an
adaptive length, at batch 1, 8 and 32.  Methods take turns over the same prompts, in an order that
rotates from block to block; whole wall time, prefill included, and what adaptive lengths spend on
learning, too.  Plain decoding runs twice in every block: the ratio of the two is the noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import smollm2
import torch
from chat import PROMPTS, encode
from methods import Prompts, Timed, interleave, load
from transformers import AutoTokenizer

from fly.config import FLyConfig
from fly.decoding import SpeculativeDecoder, Statistics
from fly.evaluation import environment
from fly.stats.speed import speed_ratio

SIZES = (1, 8, 32)
ALONE = 2  # prompts of a block at batch 1
PLAIN, AGAIN = "plain", "plain again"
LENGTHS = ("fixed", "adaptive")
WARM_UP = 4  # tokens
Block = dict[str, Timed]  # by method


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


def method(decoder: SpeculativeDecoder, num_tokens: int) -> Callable[[Prompts], Timed]:
    """A decoder as something that is timed; others then use its caches."""

    def run(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        results = decoder.generate(prompts, max_new_tokens=num_tokens)
        seconds = time.perf_counter() - begin
        decoder.release()
        pooled = sum((result.statistics for result in results), Statistics())
        return Timed([result.token_ids for result in results], seconds, pooled)

    return run


def dealt(prompts: Prompts, batch_size: int, turn: int) -> list[list[int]]:
    """A block's prompts: other ones from block to block, till all had their turn."""
    count = ALONE if batch_size == 1 else batch_size
    return [prompts[(turn * count + place) % len(prompts)] for place in range(count)]


def report(blocks: Sequence[Block]) -> dict[str, object]:
    """Speeds, their ratios to plain decoding, and what was decided."""
    own = {name: [block[name] for block in blocks] for name in blocks[0]}
    columns = {
        name: ([t.num_tokens for t in timed], [t.seconds for t in timed])
        for name, timed in own.items()
    }
    found: dict[str, object] = {}
    for name, timed in own.items():
        pooled = sum((t.statistics for t in timed if t.statistics), Statistics())
        same = [a.answers == b.answers for a, b in zip(timed, own[PLAIN], strict=True)]
        tokens, seconds = columns[name]
        found[name] = {
            "tokens_per_s": sum(tokens) / sum(seconds),
            "by_plain": asdict(speed_ratio(*columns[name], *columns[PLAIN])),
            "blocks_with_plain_text": sum(same),
            "rounds": pooled.rounds,  # of single rows
            "plain_rounds": pooled.plain,
            "acceptance_rate": pooled.metrics()["acceptance_rate"],
            "timed_in_between": {"rounds": pooled.timed_rounds, "by_plain": pooled.by_plain},
            "tokens": tokens,
            "seconds": seconds,
        }
    return found


def line(batch_size: int, found: Mapping[str, object]) -> str:
    """One line for people."""
    told = []
    for name, one in found.items():
        assert isinstance(one, dict)
        ratio = one["by_plain"]
        ends = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high'] or 0:.2f}]"
        told.append(f"{name} {ratio['estimate']:.2f}{ends}")
    return f"batch {batch_size}, tokens/s by plain: {', '.join(told)}"


def main() -> None:
    """Measure, print and save, block by block."""
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)
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
        saved = environment.describe() | {
            "model": {"name": name, "layers": num_layers},
            "settings": chosen,
            "max_new_tokens": arguments.tokens,
            "prompts": len(prompts),
            "batch": {str(size): report(own) for size, own in blocks.items() if own},
        }
        arguments.output.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        print(f"{turn + 1} blocks in {time.perf_counter() - begin:.0f} s", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", help="folder of a causal model that chats; else SmolLM2")
    options.add_argument("--tokens", type=int, default=32, help="new tokens of an answer, at most")
    options.add_argument("--blocks", type=int, default=5, help="fewer than 5 give no intervals")
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of the batches")
    options.add_argument("--spd_k", type=int, default=10)
    options.add_argument("--left_out", type=int, default=8, help="layers that self leaves out")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results/lengths.json"
    )
    return options


if __name__ == "__main__":
    main()
