"""Chain drafting: the draft model decodes K tokens greedily, all rows together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.drafting.protocol import (
    Choose,
    CommittedRow,
    DraftModel,
    End,
    Proposal,
    drafters,
    greedy,
)

if TYPE_CHECKING:
    from fly.config import FLyConfig


def within_context(
    model: DraftModel, rows: Sequence[CommittedRow], limits: Sequence[int], k: int
) -> list[int]:
    """Tokens that each row may draft: at most k, at most its limit, and no position that the model
    does not know.  [B]
    """
    room = model.num_positions
    if room is None:
        return [min(k, limit) for limit in limits]
    return [
        min(k, limit, max(0, room - len(row.ids))) for row, limit in zip(rows, limits, strict=True)
    ]


def prefill_new(model: DraftModel, rows: Sequence[CommittedRow], first: int) -> None:
    """Read the new rows' prompts but for the last token; a prompt longer than the model's context
    is left out.
    """
    room = model.num_positions
    prompts = [row.ids[:-1] if room is None or len(row.ids) <= room else [] for row in rows[first:]]
    model.prefill(prompts, first)


def opening(ids: list[int], room: int | None) -> tuple[list[int], int]:
    """The tokens that open a round, and the position of the first: the last two, because after a
    fully accepted proposal the cache lacks the older one, and where it does not the same keys are
    written again.  A row longer than the model's context stays at its end.
    """
    end = len(ids) if room is None else min(len(ids), room)
    start = max(0, end - 2)
    return ids[start:end], start


def pad_right(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Stack ragged ids, filled up with 0.  [B, n] int64, n the longest."""
    width = max(map(len, sequences))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences], device=device)


@drafters.register("model")
class ModelDrafter:
    """The draft model's greedy continuation."""

    def __init__(self, model: DraftModel, k: int) -> None:
        """Propose `k` tokens with `model`."""
        self.model = model
        self.k = k

    @classmethod
    def from_config(
        cls, config: FLyConfig, model: DraftModel | None, device: torch.device, end: End
    ) -> ModelDrafter:
        """Read spd_k."""
        assert model is not None
        return cls(model, config.spd_k)

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Prefill the new prompts."""
        prefill_new(self.model, rows, first)

    def propose(
        self, rows: Sequence[CommittedRow], limits: Sequence[int], choose: Choose = greedy
    ) -> Proposal:
        """Decode one token at a time; no result is looked at on the host unless `choose` does."""
        lengths = within_context(self.model, rows, limits, self.k)
        device = self.model.device
        k = max(lengths)
        if k == 0:
            return Proposal.from_lists([[] for _ in rows], device)
        openings, starts = zip(
            *(opening(row.ids, self.model.num_positions) for row in rows), strict=True
        )
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
            if step == k - 1:
                break
            logits = self.model.extend(token, positions, visible + step + 1)
            positions = positions + 1
        return Proposal(
            torch.cat(tokens, 1),
            torch.tensor(lengths, device=device),
            k,
            torch.cat(probs, 1) if probs else None,
        )

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Nothing to do: what was refused lies behind the rows' lengths and is overwritten."""

    def move(self, source: int, destination: int, length: int) -> None:
        """Carry the row's keys and values along."""
        self.model.move(source, destination, length)
