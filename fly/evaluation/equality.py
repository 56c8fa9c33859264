"""When two greedy answers are the same.

Forwards of different shapes differ in the last bits.  Where two answers first differ it is a tie
if the model's own two best logits there, computed one token at a time, are closer than TIE of
the logits' standard deviation; behind a tie nothing is compared.  Anything else is a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIE = 1e-4  # of the standard deviation of the logits

Equality = Literal["equal", "tie", "different"]


def compare(
    model: PreTrainedModel, prompt: Sequence[int], reference: Sequence[int], answer: Sequence[int]
) -> Equality:
    """Compare two answers to a prompt, as ids; the reference is the model's own, decoded alone."""
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
def one_by_one(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits [V] behind `ids` (at least one), fed one token at a time; at once, as `generate` does,
    where there is no such cache.
    """
    cache = None
    for token in ids:
        fed = torch.tensor([[token]], device=model.device)
        output = model(input_ids=fed, past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            output = model(input_ids=torch.tensor([list(ids)], device=model.device))
            break
    logits: Tensor = output.logits[0, -1]
    return logits
