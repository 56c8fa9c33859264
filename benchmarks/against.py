"""Two checkouts against each other: `python benchmarks/against.py --before DIR --after DIR`.

FLy on the embedded pair, at batch 1 and at a large batch, one thread.  Three processes hold the
models, `before` twice; they decode the same prompts by turns (batch 1: after each prompt), in an
order that rotates, so that drift of the machine hits all alike.  `before again` by `before` (A/A)
is the noise: a ratio nearer to 1 than that says nothing.  Whole wall time, prefill included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

BEFORE, AFTER, AGAIN = "before", "after", "before again"
SEED, MAX_NEW_TOKENS, WARM_UP = 1021, 192, 2
RATIOS = {"after / before": (AFTER, BEFORE), "before again / before (A/A)": (AGAIN, BEFORE)}
Done = dict[str, Any]  # tokens, seconds, digests of the answers


class Worker:
    """A process that decodes with one checkout's code and models."""

    def __init__(self, checkout: Path, settings: Mapping[str, object]) -> None:
        """Start it, and wait until its models are loaded."""
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=environment,
        )
        loaded = Path(self._answer()["fly"])
        if not loaded.is_relative_to(checkout):
            raise SystemExit(f"{checkout} holds no fly: {loaded} was imported")

    def decode(self, batch_size: int, prompts: Sequence[str]) -> Done:
        """Answer the prompts."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([batch_size, prompts]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process: it ends with its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Done:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended early: {self._process.wait()}")
        answer: Done = json.loads(line)
        return answer


def serve(settings: Mapping[str, object]) -> None:
    """A worker's side: a line of JSON in, one out.  Public names only: both checkouts have them."""
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
    print(json.dumps({"fly": fly.__file__}), flush=True)
    for line in sys.stdin:
        batch_size, prompts = json.loads(line)
        if batch_size not in decoders:
            config = fly.FLyConfig(**settings)
            decoders[batch_size] = fly.SpeculativeDecoder(
                target, draft, tokenizer, config, batch_size=batch_size
            )
        begin = time.perf_counter()
        results = decoders[batch_size].generate(prompts, max_new_tokens=MAX_NEW_TOKENS)
        seconds = time.perf_counter() - begin
        ids = [result.token_ids for result in results]
        digests = [hashlib.sha256(json.dumps(one).encode()).hexdigest()[:16] for one in ids]
        done = {"tokens": sum(map(len, ids)), "seconds": seconds, "digests": digests}
        print(json.dumps(done), flush=True)


def measure(
    workers: Mapping[str, Worker], batch_size: int, blocks: Sequence[Sequence[str]]
) -> list[dict[str, Done]]:
    """All blocks by all workers, which take turns after each batch."""
    for worker in workers.values():
        worker.decode(batch_size, blocks[0][:WARM_UP])
    names, measured = list(workers), []
    for turn, prompts in enumerate(blocks):
        block: dict[str, list[Done]] = {name: [] for name in names}
        for index, start in enumerate(range(0, len(prompts), batch_size), start=turn):
            first = index % len(names)
            for name in names[first:] + names[:first]:
                done = workers[name].decode(batch_size, prompts[start : start + batch_size])
                block[name].append(done)
        measured.append({name: added(parts) for name, parts in block.items()})
        speeds = (
            f"{name} {one['tokens'] / one['seconds']:.0f}" for name, one in measured[-1].items()
        )
        print(f"batch {batch_size}, block {turn}, tokens/s:", ", ".join(speeds), flush=True)
    return measured


def added(parts: Sequence[Done]) -> Done:
    """One after the other."""
    return {key: sum((part[key] for part in parts[1:]), parts[0][key]) for key in parts[0]}


def summary(blocks: Sequence[Mapping[str, Done]]) -> dict[str, object]:
    """Ratios of tokens per second, whether the answers are equal, and the raw blocks."""
    from fly.stats.speed import speed_ratio

    def column(name: str, key: str) -> list[float]:
        return [block[name][key] for block in blocks]

    found: dict[str, object] = {}
    for title, pair in RATIOS.items():
        columns = [column(name, key) for name in pair for key in ("tokens", "seconds")]
        ratio = speed_ratio(*columns)
        found[title] = asdict(ratio)
        ends = f" ({ratio.low:.3f} to {ratio.high:.3f})" if ratio.low and ratio.high else ""
        print(f"{title}: {ratio.estimate:.3f}{ends}", flush=True)
    pairs = [
        (own, other)
        for block in blocks
        for own, other in zip(block[AFTER]["digests"], block[BEFORE]["digests"], strict=True)
    ]
    found["answers"] = {"equal": sum(own == other for own, other in pairs), "of": len(pairs)}
    print(found["answers"], flush=True)
    return found | {"blocks": list(blocks)}


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
    from fly.workbench import environment

    checkouts = {BEFORE: arguments.before, AFTER: arguments.after, AGAIN: arguments.before}
    workers = {name: Worker(path.resolve(), arguments.settings) for name, path in checkouts.items()}
    saved = environment.describe() | {"settings": arguments.settings}
    for batch_size, count in ((1, arguments.alone), (arguments.best, arguments.best)):
        prompts = problems(count * arguments.blocks)
        blocks = [prompts[start :: arguments.blocks] for start in range(arguments.blocks)]
        saved[f"batch {batch_size}"] = summary(measure(workers, batch_size, blocks))
        arguments.output.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    for worker in workers.values():
        worker.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
