"""Chain drafting, where the draft model decodes K tokens greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel

from fly.drafting.base import (
    Choose,
    DrafterContext,
    DraftModel,
    Pace,
    Proposal,
    Rows,
    greedy,
    pad_right,
    upload,
)
from fly.drafting.draft_cache import CachedDrafter, DraftReader, within_context
from fly.drafting.settings import ChainSettings, DrafterSpec


class ModelDrafter(CachedDrafter):
    """The draft model's greedy continuation."""

    own_settings: ClassVar[type[BaseModel]] = ChainSettings

    def __init__(
        self,
        model: DraftModel,
        k: int,
        reader: DraftReader | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Propose `k` tokens, fewer where `pace` stops; the others are CachedDrafter's."""
        super().__init__(model, reader)
        self.k = k
        self.pace = pace

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> ModelDrafter:
        assert parts.model is not None
        return cls(parts.model, spec.k, parts.reader, parts.pace)

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
        counts = [len(ids) for ids in openings]
        goes_on = None if self.pace is None else self.pace.goes_on
        ids = pad_right(openings, device)
        tokens, probs = self.model.draft(ids, counts, starts, k, choose, goes_on)
        num_drafted = tokens.shape[1]
        offered = upload([min(length, num_drafted) for length in lengths], device)
        return Proposal(tokens, offered, num_drafted, probs)
