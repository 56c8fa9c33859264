"""Training batches: problems of similar length, padded on the right, with the solution as label."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedTokenizerFast

from fly.demo.problems import Problem, training_stream
from tools.demo.tokenizer import ASSISTANT, EOS, USER

IGNORED = -100  # label of a position that is not trained on
# What follows a digit, an operator or the space before a number counts this often: digits are
# few and hard.  The weight looks at what is known at a position, never at its label, so that
# probabilities stay unbiased.
NUMBER_WEIGHT = 3.0
NUMBER_CONTEXT = (*"0123456789+-*", "Ġ")
CHAT_SHARE = 0.1  # of all examples, written as a chat turn
BATCHES_PER_CHUNK = 8  # sorted by length together


@dataclass(frozen=True)
class Batch:
    """Token ids and next-token labels, both int64 [B, T], and the labels' weights, float [B, T]."""

    ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, size: int, start: int = 0
) -> Iterator[Batch]:
    """Yield batches of `size` examples without end; batch i depends on the seed and i alone.

    Args:
        tokenizer: the pair's.
        seed: names the training stream.
        size: examples per batch.
        start: index of the first batch.
    """
    pad = tokenizer.pad_token_id
    context = torch.tensor(tokenizer.convert_tokens_to_ids(list(NUMBER_CONTEXT)))
    chunk_index, skip = divmod(start, BATCHES_PER_CHUNK)
    while True:
        chunk_size = size * BATCHES_PER_CHUNK
        stream = training_stream(seed, start=chunk_index * chunk_size)
        rng = random.Random(f"chunk/{seed}/{chunk_index}")
        examples = _encode(tokenizer, list(islice(stream, chunk_size)), rng)
        examples.sort(key=lambda example: len(example[0]) + len(example[1]))
        groups = [examples[i : i + size] for i in range(0, chunk_size, size)]
        rng.shuffle(groups)
        for group in groups[skip:]:
            yield _collate(group, pad, context)
        chunk_index, skip = chunk_index + 1, 0


def _encode(
    tokenizer: PreTrainedTokenizerFast, problems: list[Problem], rng: random.Random
) -> list[tuple[list[int], list[int]]]:
    """Encode prompt and solution apart, as they meet when a model is asked."""
    prompts = [
        f"{USER}{p.prompt}{ASSISTANT}" if rng.random() < CHAT_SHARE else p.prompt for p in problems
    ]
    solutions = [p.solution + EOS for p in problems]
    return list(zip(tokenizer(prompts).input_ids, tokenizer(solutions).input_ids, strict=True))


def _collate(group: list[tuple[list[int], list[int]]], pad: int, context: torch.Tensor) -> Batch:
    width = max(len(prompt) + len(solution) for prompt, solution in group)
    ids = torch.full((len(group), width), pad)
    labels = torch.full((len(group), width), IGNORED)
    for row, (prompt, solution) in enumerate(group):
        end = len(prompt) + len(solution)
        ids[row, :end] = torch.tensor(prompt + solution)
        labels[row, len(prompt) - 1 : end - 1] = torch.tensor(solution)
    weights = torch.where(torch.isin(ids, context), NUMBER_WEIGHT, 1.0)
    return Batch(ids, labels, weights * (labels != IGNORED))
