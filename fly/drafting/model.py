"""Chain drafting: the draft model decodes K tokens greedily, all rows together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.drafting.protocol import (
    Choose,
    DraftModel,
    Pace,
    Parts,
    Proposal,
    Rows,
    drafters,
    greedy,
)
from fly.drafting.reading import CachedDrafter, DraftReader, pad_right, within_context
from fly.settings import Traits

if TYPE_CHECKING:
    from fly.config import FLyConfig


def _confidence(logits: Tensor, token: Tensor, probs: Tensor | None) -> Tensor:
    """What the draft's logits [B, 1, V], or the distributions that tokens [B, 1] were drawn from,
    give to them.  [B]
    """
    probs = logits.float().softmax(-1) if probs is None else probs
    return probs.gather(-1, token[..., None])[:, 0, 0]


@drafters.register("model")
class ModelDrafter(CachedDrafter):
    """The draft model's greedy continuation."""

    def __init__(
        self,
        model: DraftModel,
        k: int,
        reader: DraftReader | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Propose `k` tokens, fewer where `pace` says so; the others are CachedDrafter's."""
        super().__init__(model, reader)
        self.k = k
        self.pace = pace

    @classmethod
    def traits(cls, config: FLyConfig) -> Traits:
        """Needs a draft model."""
        return Traits(needs_model=True, gives_probs=True, asks_pace=True)

    @classmethod
    def from_config(cls, config: FLyConfig, parts: Parts) -> ModelDrafter:
        """Read spd_k."""
        assert parts.model is not None
        return cls(parts.model, config.spd_k, parts.reader, parts.pace)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Decode one token at a time; no result is looked at on the host unless `choose` or `pace`
        does.
        """
        lengths = within_context(self.model, rows, limits, self.k)
        device = self.model.device
        k = max(lengths)
        if k == 0:
            return Proposal.from_lists([[] for _ in rows], device)
        openings, starts = self.reader.openings(rows, lengths)
        ids = pad_right(openings, device)
        visible = max(starts) + ids.shape[1]
        positions = torch.tensor(starts, device=device)
        counts = torch.tensor([len(ids) for ids in openings], device=device)
        logits = self.model.extend(ids, positions, visible)
        logits = logits[torch.arange(len(rows), device=device), counts - 1, None]  # [B, 1, V]
        tokens = [torch.empty(len(rows), 0, dtype=torch.int64, device=device)]
        probs: list[Tensor] = []
        positions = positions + counts
        for step in range(k):
            token, drawn_from = choose(
                logits, [step] * len(rows), lambda: torch.cat(tokens, 1).tolist()
            )
            tokens.append(token)
            if drawn_from is not None:
                probs.append(drawn_from)
            if step == k - 1 or not self._goes_on(logits, token, drawn_from):
                break
            logits = self.model.extend(token, positions, visible + step + 1)
            positions = positions + 1
        num_drafted = len(tokens) - 1
        return Proposal(
            torch.cat(tokens, 1),
            torch.tensor(lengths, device=device).clamp_max(num_drafted),
            num_drafted,
            torch.cat(probs, 1) if probs else None,
        )

    def _goes_on(self, logits: Tensor, token: Tensor, drawn_from: Tensor | None) -> bool:
        """Ask the pace, if there is one."""
        if self.pace is None:
            return True
        return self.pace.goes_on(token[:, 0], _confidence(logits, token, drawn_from))
