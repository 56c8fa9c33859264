"""N-gram drafting without a draft model.  The proposal is what followed the same tokens earlier in
prompt or answer."""

from __future__ import annotations

from collections.abc import Sequence

from fly.drafting.base import (
    Choose,
    CommittedRow,
    Drafter,
    DrafterContext,
    Proposal,
    Rows,
    greedy,
)
from fly.drafting.lookup import NgramIndex
from fly.drafting.per_request import PerRequest
from fly.drafting.settings import DrafterSpec, NgramSettings, ResolvedNgram, Which


class NgramDrafter(Drafter):
    """Prompt lookup as the drafter."""

    own_settings = NgramSettings

    def __init__(self, k: int, max_ngram: int, which: Which = "earliest") -> None:
        """Propose up to `k` tokens, looked up by the last `max_ngram` tokens or fewer."""
        self.k = k
        self.max_ngram, self.which = max_ngram, which
        self._texts = PerRequest(lambda _: NgramIndex(max_ngram, which))

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> NgramDrafter:
        settings = spec.settings
        assert isinstance(settings, ResolvedNgram)
        return cls(spec.k, settings.max_ngram, settings.match)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Look up every row; a row without an earlier occurrence gets an empty proposal."""
        found = [
            self._text(row).continuation(min(self.k, limit))
            for row, limit in zip(rows, limits, strict=True)
        ]
        return Proposal.from_lists(found)

    def _text(self, row: CommittedRow) -> NgramIndex:
        """The index of a row, which has read what the row gained."""
        text = self._texts.of(row)
        text.extend(row.ids[len(text.ids) :])
        return text

    def forget(self, index: int) -> None:
        """Its index is not needed."""
        self._texts.pop(index, None)
