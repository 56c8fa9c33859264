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
        return cls(parts.model, spec.k, DraftReader.of(parts), parts.pace)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Decode one token at a time; no result is looked at on the host unless `choose` or `pace`
        does.
        """
        lengths = within_context(self.model, rows, limits, self.k)
        k = max(lengths)
        if k == 0:
            return Proposal.from_lists([[] for _ in rows])
        opening = self.reader.open(rows, lengths)
        goes_on = None if self.pace is None else self.pace.goes_on
        tokens, probs = self.model.draft(
            opening.ids, opening.counts, opening.starts, k, choose, goes_on
        )
        num_drafted = tokens.shape[1]
        return Proposal(
            tokens,
            opening.limits if num_drafted == k else opening.limits.clamp_max(num_drafted),
            num_drafted,
            probs,
            known_lengths=[min(length, num_drafted) for length in lengths],
        )
