"""Where a method's answer first leaves the target's own, how sure the target was there, and which
loosened token stood before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from fly.decoding.base import execution_device, read_whole
from fly.evaluation.equality import TIE
from fly.formats.answers import Answer
from fly.formats.items import Divergence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOOSE = "l"


class Divergences:
    """Looks at first differences; the target is asked once for each context."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model` is the target."""
        self._model: Any = model
        self._known: dict[tuple[int, ...], tuple[float, bool]] = {}

    def find(self, prompt: Sequence[int], own: Answer, other: Answer) -> Divergence | None:
        """Compare an answer with the target's own; None where both have the same ids."""
        if own.token_ids == other.token_ids:
            return None
        pairs = zip(own.token_ids, other.token_ids, strict=False)
        shorter = min(len(own.token_ids), len(other.token_ids))
        at = next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)
        gap, is_tie = self._gap([*prompt, *own.token_ids[:at]])
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
    def _gap(self, context: Sequence[int]) -> tuple[float, bool]:
        """The target's p(best) - p(second) behind `context`, and whether its logits nearly tie."""
        key = tuple(context)
        if key not in self._known:
            ids = torch.tensor([list(context)], device=execution_device(self._model))
            logits = read_whole(self._model, ids, keep=1)[0, -1].float()
            best, second = logits.topk(2).values.tolist()
            probs = logits.softmax(-1).topk(2).values.tolist()
            is_tie = best - second < TIE * float(logits.std())
            self._known[key] = (probs[0] - probs[1], is_tie)
        return self._known[key]


def _piece(answer: Answer, at: int) -> str | None:
    return answer.tokens[at] if at < len(answer.tokens) else None
