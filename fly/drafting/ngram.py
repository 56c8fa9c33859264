"""N-gram drafting without a draft model: the proposal is what followed the same tokens earlier in
prompt or answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel

from fly.drafting.lookup import NgramIndex
from fly.drafting.protocol import (
    Choose,
    CommittedRow,
    Drafter,
    Parts,
    Proposal,
    greedy,
)
from fly.drafting.settings import NgramSettings, ResolvedNgram, Which
from fly.drafting.spec import DrafterSpec


class IndexedRows:
    """One n-gram index per row, kept up to date with what is committed."""

    def __init__(self, max_ngram: int, which: Which) -> None:
        """Index n-grams of 1 to `max_ngram` tokens."""
        self.max_ngram, self.which = max_ngram, which
        self._indices: list[NgramIndex] = []

    def __getitem__(self, row: int) -> NgramIndex:
        """The index of one row."""
        return self._indices[row]

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Index the prompts of rows `first` and following."""
        del self._indices[first:]
        self._indices += [NgramIndex(self.max_ngram, self.which) for _ in rows[first:]]
        self.commit(rows)

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Append what the rows gained."""
        for index, row in zip(self._indices, rows, strict=False):
            index.extend(row.ids[len(index.ids) :])

    def move(self, source: int, destination: int) -> None:
        """Row `source` takes the place of row `destination`."""
        self._indices[destination] = self._indices[source]


class NgramDrafter(Drafter):
    """Prompt lookup as the drafter."""

    def __init__(
        self, k: int, max_ngram: int, device: torch.device, which: Which = "earliest"
    ) -> None:
        """Propose up to `k` tokens, looked up by the last `max_ngram` tokens or fewer."""
        self.k = k
        self._device = device
        self._rows = IndexedRows(max_ngram, which)

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        return NgramSettings

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: Parts) -> NgramDrafter:
        settings = spec.settings
        assert isinstance(settings, ResolvedNgram)
        return cls(spec.k, settings.max_ngram, parts.device, settings.match)

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Index the new prompts."""
        self._rows.admit(rows, first)

    def propose(
        self, rows: Sequence[CommittedRow], limits: Sequence[int], choose: Choose = greedy
    ) -> Proposal:
        """Look up every row; a row without an earlier occurrence gets an empty proposal."""
        found = [
            self._rows[row].continuation(min(self.k, limit)) for row, limit in enumerate(limits)
        ]
        return Proposal.from_lists(found, self._device)

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Index what the rows gained."""
        self._rows.commit(rows)

    def move(self, source: int, destination: int, length: int) -> None:
        """Row `source` takes the place of row `destination`."""
        self._rows.move(source, destination)
