"""Endurance: `python benchmarks/soak.py` sends 5,000 requests of random lengths, stops and limits
through batch 16 of the embedded pair, watches the process's memory, and compares every answer with
the one that the request gets alone.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import psutil
import torch
from blocks import Pair, parsed, parser, save

from fly.demo.problems import heldout
from fly.engine import Request, Result

SEED = 303
BATCH_SIZE = 16
SETTLED = 500  # requests after which memory may hardly grow
MOST_GROWTH = 0.05
STOPS = ((), (), ("\n",), ("\n\n",), (".",), ("return", "="), (" 7", "so"), ("</s>",))
LONGEST_PROMPT, MOST_TOKENS = 400, 96

Answer = tuple[list[int], str, str]  # ids, text, finish reason


def draw_requests(pair: Pair, count: int) -> list[Request]:
    """Pieces of held-out problems, from a single token to several problems in a row."""
    fate = random.Random(SEED)
    texts = [problem.prompt for kind in ("arithmetic", "code") for problem in heldout(kind, 500, 1)]
    requests = []
    for _ in range(count):
        ids = pair.encode("\n\n".join(fate.sample(texts, 4)))
        prompt = ids[: fate.choice((fate.randint(1, 60), fate.randint(1, LONGEST_PROMPT)))]
        limit = fate.randint(1, MOST_TOKENS)
        requests.append(Request(tuple(prompt), limit, fate.choice(STOPS)))
    return requests


def answer(result: Result) -> Answer:
    """What of a result has to be the same at batch 1."""
    return result.token_ids, result.text, result.finish_reason


def soak(pair: Pair, requests: Sequence[Request]) -> tuple[dict[int, Answer], list[int]]:
    """All answers from batch 16, and the process's memory after each, in bytes."""
    process = psutil.Process()
    answers: dict[int, Answer] = {}
    memory = []
    for index, result in pair.decoder(BATCH_SIZE).decode(requests):
        answers[index] = answer(result)
        memory.append(process.memory_info().rss)
        if len(memory) % SETTLED == 0:
            print(f"{len(memory)} answers, {memory[-1] / 2**20:.1f} MiB", flush=True)
    return answers, memory


def answer_alone(requests: Sequence[Request]) -> list[Answer]:
    """The answers at batch 1; one process's share, on one thread."""
    torch.set_num_threads(1)
    found = dict(Pair().decoder(1).decode(requests))
    return [answer(found[index]) for index in range(len(requests))]


def all_alone(requests: Sequence[Request], num_processes: int) -> list[Answer]:
    """The answers at batch 1, in the order of the requests."""
    shares = [requests[index::num_processes] for index in range(num_processes)]
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(answer_alone, shares))
    return [parts[i % num_processes][i // num_processes] for i in range(len(requests))]


def main() -> None:
    """Run, print and save."""
    options = parser(__doc__, "soak.json", threads=2)
    options.add_argument("--requests", type=int, default=5000)
    options.add_argument("--processes", type=int, default=2, help="at batch 1, of a thread each")
    arguments = parsed(options)
    pair = Pair()
    requests = draw_requests(pair, arguments.requests)
    begin = time.perf_counter()
    together, memory = soak(pair, requests)
    seconds = time.perf_counter() - begin
    settled = memory[min(SETTLED, len(memory)) - 1]
    growth = max(memory[SETTLED:], default=settled) / settled - 1
    alone = all_alone(requests, arguments.processes)
    different = [index for index, own in enumerate(alone) if together[index] != own]
    report = {
        "requests": len(requests),
        "batch_size": BATCH_SIZE,
        "seconds": seconds,
        "tokens": sum(len(ids) for ids, _, _ in together.values()),
        "finish_reasons": {
            reason: sum(each[2] == reason for each in together.values())
            for reason in ("eos", "stop", "length")
        },
        "memory_growth_behind_500": {"at_most": MOST_GROWTH, "found": growth},
        "equal_to_batch_1": {"equal": len(requests) - len(different), "different": different},
        "memory_mib": [round(value / 2**20, 1) for value in memory[::100]],
    }
    save(arguments.output, report)
    print(json.dumps({key: report[key] for key in list(report)[:-1]}, indent=1))


if __name__ == "__main__":
    main()
