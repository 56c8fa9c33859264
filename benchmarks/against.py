"""Two checkouts against each other: `python benchmarks/against.py --before DIR --after DIR`.

FLy on the embedded pair, at batch 1 and at a large batch, one thread.  Three processes hold the
models, `before` twice; they decode the same prompts by turns (batch 1: after each prompt), in an
order that rotates, so that drift of the machine hits all alike.  `before again` by `before` (A/A)
is the noise: a ratio nearer to 1 than that says nothing.  Whole wall time, prefill included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers import Loaded, Worker, serve

if TYPE_CHECKING:
    from blocks import Block, Method

BEFORE, AFTER, AGAIN = "before", "after", "before again"
SEED, MAX_NEW_TOKENS = 1021, 192
RATIOS = {"after / before": (AFTER, BEFORE), "before again / before (A/A)": (AGAIN, BEFORE)}


def start(checkout: Path, settings: Mapping[str, object]) -> Worker:
    """A process that decodes with one checkout's code and models."""
    command = [sys.executable, __file__, "--serve", json.dumps(settings)]
    worker = Worker(command, {"PYTHONPATH": str(checkout)}, checkout)
    loaded = Path(worker.loaded["fly"])
    if not loaded.is_relative_to(checkout):
        raise SystemExit(f"{checkout} holds no fly: {loaded} was imported")
    return worker


def load(settings: Mapping[str, Any]) -> Loaded:
    """A worker's models.  Public names only: both checkouts have them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    import fly
    from fly.demo import DRAFT_PATH, TARGET_PATH

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    target, draft = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (TARGET_PATH, DRAFT_PATH)
    )
    tokenizer = AutoTokenizer.from_pretrained(TARGET_PATH)
    decoders: dict[int, fly.SpeculativeDecoder] = {}

    def answer(question: tuple[int, list[str]]) -> object:
        batch_size, prompts = question
        if batch_size not in decoders:
            config = fly.FLyConfig(**settings)
            decoders[batch_size] = fly.SpeculativeDecoder(
                target, draft, tokenizer, config, batch_size=batch_size
            )
        begin = time.perf_counter()
        results = decoders[batch_size].generate(prompts, max_new_tokens=MAX_NEW_TOKENS)
        seconds = time.perf_counter() - begin
        return {"answers": [result.token_ids for result in results], "seconds": seconds}

    return {"fly": fly.__file__}, answer


def method(worker: Worker, batch_size: int) -> Method:
    """What a worker answers to prompts."""
    from blocks import Timed

    return lambda prompts: Timed(**worker.ask([batch_size, prompts]))


def summary(blocks: Sequence[Block]) -> dict[str, object]:
    """Ratios of tokens per second, whether the answers are equal, and the raw blocks."""
    from blocks import interval, ratio, tokens_and_seconds, total

    found: dict[str, object] = {}
    for title, pair in RATIOS.items():
        found[title] = one = ratio(blocks, *pair)
        print(f"{title}: {interval(one)}", flush=True)
    pairs = list(zip(*(total(blocks, name).answers for name in (AFTER, BEFORE)), strict=True))
    found["answers"] = {"equal": sum(own == other for own, other in pairs), "of": len(pairs)}
    print(found["answers"], flush=True)
    return found | {"blocks": tokens_and_seconds(blocks)}


def problems(count: int) -> list[str]:
    """Held-out problems, half of them functions."""
    from fly.demo.problems import heldout

    kinds = [heldout(kind, count // 2 + count % 2, SEED) for kind in ("arithmetic", "code")]
    return [one.prompt for both in zip(*kinds, strict=True) for one in both][:count]


def main() -> None:
    """Measure, print and save."""
    results = Path(__file__).parent / "results"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout")
    parser.add_argument("--after", type=Path, required=True, help="another, or the same")
    parser.add_argument("--blocks", type=int, default=8, help="fewer than 5 give no intervals")
    parser.add_argument("--alone", type=int, default=8, help="prompts of a block at batch 1")
    parser.add_argument("--best", type=int, default=128, help="the large batch, and its prompts")
    parser.add_argument("--settings", type=json.loads, default={}, help="of FLyConfig, as JSON")
    parser.add_argument("--output", type=Path, default=results / "against.json")
    arguments = parser.parse_args()
    from blocks import run_blocks

    from fly.workbench import environment

    checkouts = {BEFORE: arguments.before, AFTER: arguments.after, AGAIN: arguments.before}
    workers = {name: start(path.resolve(), arguments.settings) for name, path in checkouts.items()}
    saved = environment.describe() | {"settings": arguments.settings}
    for batch_size, count in ((1, arguments.alone), (arguments.best, arguments.best)):
        methods = {name: method(worker, batch_size) for name, worker in workers.items()}
        prompts = problems(count * arguments.blocks)
        print(f"batch {batch_size}", flush=True)
        blocks = run_blocks(methods, prompts, arguments.blocks, batch_size)
        saved[f"batch {batch_size}"] = summary(blocks)
        arguments.output.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    for worker in workers.values():
        worker.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(lambda: load(json.loads(sys.argv[2])))
    else:
        main()
