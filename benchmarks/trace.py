"""What tracing costs: `python benchmarks/trace.py` decodes held-out problems with the embedded
pair, untraced and traced, in blocks whose order rotates, and saves the ratio of their wall times.
Traced means all that `fly run --trace` adds: rounds recorded, lines made, written to a file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import environment
import torch
from intervals import Ratio, ratio_over_blocks
from methods import MAX_NEW_TOKENS, Pair

from fly.backend.records import RequestRecord
from fly.backend.tracing import AnswerWriter, method_entry
from fly.config import FLyConfig
from fly.decoding import Request, SpeculativeDecoder
from fly.demo.problems import Problem, heldout

SEED = 505
BATCH_SIZE = 32
METHODS = {
    "fly": FLyConfig(),
    "native": FLyConfig(acceptance="native"),
    "target": FLyConfig(use_sd=False),
}


def problems(count: int) -> list[Problem]:
    """Half arithmetic, half code."""
    kinds = [heldout(kind, count // 2, SEED) for kind in ("arithmetic", "code")]
    return [problem for both in zip(*kinds, strict=True) for problem in both]


def untraced(decoder: SpeculativeDecoder, requests: list[Request]) -> float:
    """Wall seconds."""
    begin = time.perf_counter()
    for _ in decoder.decode(requests):
        pass
    return time.perf_counter() - begin


def traced(
    decoder: SpeculativeDecoder, requests: list[Request], writer: AnswerWriter, method: str
) -> float:
    """Wall seconds, every answer written as it finishes."""
    begin = time.perf_counter()
    for index, result in decoder.decode(requests):
        record = RequestRecord(
            "heldout",
            index,
            None,
            0,
            0,
            result.finish_reason,
            len(result.token_ids),
            result.statistics,
        )
        writer.write(method, record, "", result.text, result)
    return time.perf_counter() - begin


def measure(
    pair: Pair, method: str, blocks: list[list[Request]], folder: Path
) -> tuple[Ratio, int]:
    """Traced over untraced seconds, and the bytes written."""
    decoder = SpeculativeDecoder(
        pair.target, pair.draft, pair.tokenizer, METHODS[method], batch_size=BATCH_SIZE
    )
    recording = decoder.with_config(decoder.config, record_rounds=True)
    path = folder / f"{method}.jsonl"
    entries = {method: method_entry(decoder)}
    seconds: tuple[list[float], list[float]] = ([], [])
    with AnswerWriter(path, pair.tokenizer, "benchmark", {}, entries) as writer:
        untraced(decoder, blocks[0])  # warm-up
        traced(recording, blocks[0], writer, method)
        for turn, requests in enumerate(blocks):
            for which in (turn % 2, 1 - turn % 2):
                if which:
                    seconds[1].append(traced(recording, requests, writer, method))
                else:
                    seconds[0].append(untraced(decoder, requests))
    return ratio_over_blocks(seconds[1], seconds[0]), path.stat().st_size


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1280, help="in all, for each method")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/trace.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair = Pair()
    requests = [
        Request(tuple(pair.encode(problem.prompt)), MAX_NEW_TOKENS)
        for problem in problems(arguments.problems)
    ]
    blocks = [requests[start :: arguments.blocks] for start in range(arguments.blocks)]
    report: dict[str, object] = environment.describe() | {
        "batch_size": BATCH_SIZE,
        "problems": len(requests),
        "blocks": len(blocks),
    }
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            ratio, num_bytes = measure(pair, method, blocks, Path(folder))
            report[method] = {"time_ratio": ratio.to_dict(), "bytes": num_bytes}
            print(f"{method}: {ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]", flush=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
