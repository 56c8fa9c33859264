"""Whether two greedy answers of one model are equal, ties apart.

Forwards of different shapes differ in the last bits.  Where two answers first differ it is a tie
if the model's own two best logits there, computed one token at a time, are closer than 1e-4 of
the logits' standard deviation; behind a tie nothing is compared.  Anything else is a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

TIE = 1e-4  # of the standard deviation of the logits

Equality = Literal["equal", "tie", "different"]


def compare(
    model: PreTrainedModel, prompt: Sequence[int], reference: Sequence[int], answer: Sequence[int]
) -> Equality:
    """Compare two answers to a prompt; the reference is the model's own, decoded alone."""
    if list(reference) == list(answer):
        return "equal"
    shorter = min(len(reference), len(answer))
    first = next((i for i in range(shorter) if reference[i] != answer[i]), shorter)
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
