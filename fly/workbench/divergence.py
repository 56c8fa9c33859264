"""Differences between a method's answer and the target's own.  Where they first differ, how sure
the target was there, and which loosened token came before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from fly.engine.model.base import execution_device, read_whole
from fly.formats.answers import Answer
from fly.formats.comparison import Divergence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIE = 1e-4  # of the standard deviation of the logits

Equality = Literal["equal", "tie", "different"]

_LOOSE = "l"


class Top2(NamedTuple):
    """The target's two best tokens at a place."""

    gap: float  # p(best) - p(second)
    is_tie: bool  # whether their logits differ by no more than rounding


# Prompt, answer and the place in it.
Top2Of = Callable[[Sequence[int], Sequence[int], int], Top2]


class Divergences:
    """First differences; the target is asked once for each context.

    Forwards of different shapes differ in the last bits.  Where the target's two best logits are
    closer than TIE of the logits' standard deviation, a difference is a tie; nothing is compared
    after it.
    """

    def __init__(self, top2: Top2Of) -> None:
        """`top2` is that of the target's engine."""
        self._top2 = top2
        self._known: dict[tuple[int, ...], Top2] = {}

    def find(self, prompt: Sequence[int], own: Answer, other: Answer) -> Divergence | None:
        """Compare an answer with the target's own; None where both have the same ids."""
        if own.token_ids == other.token_ids:
            return None
        at = _first_difference(own.token_ids, other.token_ids)
        if at is None:
            at = min(len(own.token_ids), len(other.token_ids))
        context = (*prompt, *own.token_ids[:at])
        if context not in self._known:
            self._known[context] = self._top2(prompt, own.token_ids, at)
        gap, is_tie = self._known[context]
        loose_at = other.origins.rfind(_LOOSE, 0, at + 1)
        return Divergence(
            at=at,
            token=_piece(other, at),
            target_token=_piece(own, at),
            gap=gap,
            is_tie=is_tie,
            loose_at=loose_at if loose_at >= 0 else None,
            loose_token=other.tokens[loose_at] if loose_at >= 0 else None,
        )


@torch.inference_mode()
def top2_after(model: PreTrainedModel, ids: Sequence[int]) -> Top2:
    """A model's two best tokens after `ids`, in one forward."""
    reader: Any = model
    fed = torch.tensor([list(ids)], device=execution_device(reader))
    logits = read_whole(reader, fed, keep=1)[0, -1].float()
    probs = logits.softmax(-1).topk(2).values.tolist()
    return Top2(probs[0] - probs[1], _is_tie(logits))


def compare(
    model: PreTrainedModel, prompt: Sequence[int], reference: Sequence[int], answer: Sequence[int]
) -> Equality:
    """Compare two greedy answers to a prompt, as ids; the reference is the model's own, decoded
    alone.  Its logits are computed one token at a time."""
    if list(reference) == list(answer):
        return "equal"
    first = _first_difference(reference, answer)
    if first is None:
        return "different"  # one goes on where the other ended
    logits = one_by_one(model, [*prompt, *reference[:first]])
    return "tie" if _is_tie(logits) else "different"


@torch.inference_mode()
def one_by_one(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits [V] after `ids` (at least one), fed one token at a time; at once, as `generate` does,
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


def _is_tie(logits: Tensor) -> bool:
    best, second = logits.topk(2).values.tolist()
    return bool(best - second < TIE * float(logits.std()))


def _first_difference(own: Sequence[int], other: Sequence[int]) -> int | None:
    """None where one is the beginning of the other."""
    pairs = enumerate(zip(own, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), None)


def _piece(answer: Answer, at: int) -> str | None:
    return answer.tokens[at] if at < len(answer.tokens) else None
