"""Chain drafting: the draft model decodes K tokens greedily, all rows together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel
from torch import Tensor

from fly.drafting.protocol import (
    Choose,
    CommittedRow,
    Drafter,
    DraftModel,
    Parts,
    Proposal,
    greedy,
    upload,
)
from fly.drafting.reading import DraftReader, pad_right, within_context
from fly.drafting.settings import ChainSettings
from fly.drafting.spec import DrafterSpec


class Pace(Protocol):
    """Decides while a proposal grows whether it grows on."""

    def goes_on(self, tokens: Tensor, confidence: Tensor) -> bool:
        """Told after every step every row's token [B], and what the draft gave to it [B]."""
        ...


class ModelDrafter(Drafter):
    """The draft model's greedy continuation."""

    def __init__(self, model: DraftModel, k: int, reader: DraftReader | None = None) -> None:
        """Propose `k` tokens with `model`, read through `reader` if another owns its rows."""
        self.model = model
        self.reader = reader or DraftReader(model)
        self.k = k
        self.is_lazy = False  # new prompts are read when their rows first draft
        self.pace: Pace | None = None

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        return ChainSettings

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: Parts) -> ModelDrafter:
        assert parts.model is not None
        return cls(parts.model, spec.k, parts.reader)

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Prefill the new prompts."""
        self.reader.admit(rows, first, is_lazy=self.is_lazy)

    def propose(
        self, rows: Sequence[CommittedRow], limits: Sequence[int], choose: Choose = greedy
    ) -> Proposal:
        """One call on the draft model; no result is looked at on the host unless `choose` or `pace`
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

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """What was refused lies behind the rows' lengths and is overwritten."""
        self.reader.commit(rows)

    def move(self, source: int, destination: int, length: int) -> None:
        """Carry the row's keys and values along."""
        self.reader.move(source, destination, length)
