"""Whether native text is the text of `generate`, one request at a time, ties apart.

Forwards of different shapes differ in the last bits.  Where two answers first differ it is a tie
if the model's own two best logits there, computed one token at a time, are closer than 1e-4 of
the logits' standard deviation; behind a tie nothing is compared.  Anything else is a difference.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Literal

import torch
from methods import Pair, engine, plain_generate
from transformers import PreTrainedModel

TIE = 1e-4  # of the standard deviation of the logits

NATIVE_BATCHES = (1, 32)
Equality = Literal["equal", "tie", "different"]


def compare(
    model: PreTrainedModel, prompt: Sequence[int], reference: Sequence[int], answer: Sequence[int]
) -> Equality:
    """Compare two answers to a prompt; the reference is the model's own, decoded alone."""
    if list(reference) == list(answer):
        return "equal"
    pairs = enumerate(zip(reference, answer, strict=False))
    first = next((i for i, (own, other) in pairs if own != other), None)
    if first is None:
        return "different"  # one goes on where the other ended
    logits = one_by_one(model, [*prompt, *reference[:first]])
    best, second = logits.topk(2).values.tolist()
    return "tie" if best - second < TIE * float(logits.std()) else "different"


@torch.inference_mode()
def one_by_one(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits [V] behind `ids`, fed one token at a time."""
    cache = None
    for token in ids:
        output = model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
    return output.logits[0, -1]


def equality(prompts: Sequence[list[int]], num_processes: int) -> dict[str, dict[str, int]]:
    """Counts of equal, tied and different answers by batch size; not timed, so shared out."""
    shares = [list(prompts[index::num_processes]) for index in range(num_processes)]
    # A fork of a process whose matrix products had threads may hang.
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        counted = list(pool.map(compare_share, shares))
    return {
        f"native at batch {size}": dict(sum((share[size] for share in counted), Counter()))
        for size in NATIVE_BATCHES
    }


def compare_share(prompts: Sequence[list[int]]) -> dict[int, Counter[str]]:
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
