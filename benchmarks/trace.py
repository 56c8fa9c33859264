"""What tracing costs: `python benchmarks/trace.py` decodes held-out problems with the embedded
pair, untraced and traced, in blocks whose order rotates, and saves the ratio of their wall times.
Traced means all that `fly run --trace` adds: rounds recorded, lines made, written to a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocks import (
    MAX_NEW_TOKENS,
    Method,
    Pair,
    parsed,
    parser,
    problems,
    run_blocks,
    save,
    shown,
    time_ratio,
    timed,
)

from fly.engine import Request, Result, SpeculativeDecoder
from fly.harness.records import RequestRecord
from fly.harness.tracing import AnswerWriter, method_entry

SEED = 505
BATCH_SIZE = 32
METHODS: dict[str, dict[str, Any]] = {
    "fly": {},
    "native": {"acceptance": "native"},
    "target": {"use_sd": False},
}
PLAIN, AGAIN, TRACED = "untraced", "untraced again", "traced"


def untraced(decoder: SpeculativeDecoder) -> Method:
    """Answers only."""
    return timed(lambda requests: [result for _, result in decoder.decode(requests)])


def traced(decoder: SpeculativeDecoder, writer: AnswerWriter, method: str) -> Method:
    """Every answer is written as it finishes."""

    def decode(requests: Sequence[Request]) -> list[Result]:
        results = []
        for index, result in decoder.decode(requests):
            count = len(result.token_ids)
            record = RequestRecord(
                "heldout", index, None, 0, 0, result.finish_reason, count, result.statistics
            )
            writer.write(method, record, "", result.text, result)
            results.append(result)
        return results

    return timed(decode)


def measure(
    pair: Pair, method: str, requests: Sequence[Request], num_blocks: int, folder: Path
) -> dict[str, object]:
    """Traced by untraced seconds, the noise, and the bytes written."""
    decoder = pair.decoder(BATCH_SIZE, **METHODS[method])
    recording = decoder.with_config(decoder.config, record_rounds=True)
    path = folder / f"{method}.jsonl"
    entries = {method: method_entry(decoder)}
    with AnswerWriter(path, pair.tokenizer, "benchmark", {}, entries) as writer:
        methods = {PLAIN: untraced(decoder), TRACED: traced(recording, writer, method)}
        methods[AGAIN] = methods[PLAIN]
        blocks = run_blocks(methods, requests, num_blocks, len(requests))
    return {
        "ratio": time_ratio(blocks, TRACED, PLAIN),
        "a_a": time_ratio(blocks, AGAIN, PLAIN),
        "bytes": path.stat().st_size,
    }


def main() -> None:
    """Measure and save."""
    options = parser(__doc__, "trace.json")
    options.add_argument("--problems", type=int, default=1280, help="in all, for each method")
    options.add_argument("--blocks", type=int, default=20)
    arguments = parsed(options)
    pair = Pair()
    requests = [
        Request(tuple(pair.encode(problem.prompt)), MAX_NEW_TOKENS)
        for problem in problems(arguments.problems, SEED)
    ]
    report: dict[str, object] = {"batch_size": BATCH_SIZE, "problems": len(requests)}
    report["blocks"] = arguments.blocks
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            found = measure(pair, method, requests, arguments.blocks, Path(folder))
            report[method] = found
            print(f"{method}: {shown(found)}", flush=True)
    save(arguments.output, report)


if __name__ == "__main__":
    main()
