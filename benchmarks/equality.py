"""Whether native text is the text of `generate`, one request at a time, ties apart."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import torch
from methods import Pair, Prompts, engine, plain_generate

from fly.evaluation.divergence import Equality, compare

NATIVE_BATCHES = (1, 32)


def equality(prompts: Prompts, num_processes: int) -> dict[str, dict[str, int]]:
    """Counts of equal, tied and different answers by batch size; not timed, so shared out."""
    shares = [list(prompts[index::num_processes]) for index in range(num_processes)]
    # A fork of a process whose matrix products had threads may hang.
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        counted = list(pool.map(compare_share, shares))
    return {
        f"native at batch {size}": dict(sum((share[size] for share in counted), Counter()))
        for size in NATIVE_BATCHES
    }


def compare_share(prompts: Prompts) -> dict[int, Counter[Equality]]:
    """One process's share, on one thread."""
    torch.set_num_threads(1)
    pair = Pair()
    references = plain_generate(pair, 1)(prompts).answers
    counts = {}
    for size in NATIVE_BATCHES:
        answers = engine(pair, size, acceptance="native")(prompts).answers
        counts[size] = Counter(
            compare(pair.target, prompt, reference, answer)
            for prompt, reference, answer in zip(prompts, references, answers, strict=True)
        )
    return counts
