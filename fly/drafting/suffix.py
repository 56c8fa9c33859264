"""Suffix drafting without a draft model.  The proposal is what followed the longest suffix of the
text that occurred before, in the row's own text or in earlier answers.  Source: SuffixDecoding
(arXiv 2411.04975) for the store and for lengths bounded by the match; SAM decoding (arXiv
2411.10666) for the automaton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from fly.drafting.base import (
    Choose,
    CommittedRow,
    Drafter,
    DrafterContext,
    Proposal,
    Rows,
    greedy,
)
from fly.drafting.lookup import NO_MATCH, Cursor, Match, SuffixAutomaton, continuation
from fly.drafting.per_request import PerRequest
from fly.drafting.settings import DrafterSettings, DrafterSpec
from fly.settings import Traits


class SuffixSettings(DrafterSettings):
    """When and how much is proposed, and what is kept."""

    min_match: int = Field(
        1, ge=1, description="Tokens that must match before anything is proposed."
    )
    max_factor: float = Field(
        1.0, gt=0, description="A proposal is at most this many times as long as the match."
    )
    store_tokens: int = Field(
        0,
        ge=0,
        description="Tokens of earlier answers that are kept to be looked up; the oldest leave "
        "first. 0: only the row's own text is. With loosen_copied and a loose rule the text then "
        "depends on which requests came before.",
    )

    @property
    def traits(self) -> Traits:
        """Copies; with a store, what it offers depends on earlier requests."""
        return Traits(copies_context=True, remembers=self.store_tokens > 0, adapts=True)


@dataclass
class IndexedRow:
    """One row's text."""

    num_prompt: int
    reader: StoreReader | None
    automaton: SuffixAutomaton = field(default_factory=SuffixAutomaton)

    def commit(self, ids: Sequence[int]) -> None:
        """Read what the text gained; `ids` is all of it."""
        start = len(self.automaton.ids)
        self.automaton.extend(ids[start:])
        if self.reader is not None:
            self.reader.read(ids, start)


REPEATING = 4  # tokens of a match that make a text repeat itself


class SuffixDrafter(Drafter):
    """Proposes what followed the longest match.

    Differs: it follows one occurrence, the one seen last as a longest match (lookup.py), not the
    most frequent.
    """

    own_settings = SuffixSettings

    def __init__(self, k: int, settings: SuffixSettings) -> None:
        """Propose up to `k` tokens."""
        self.k = k
        self.settings = settings
        self._store = AnswerStore(settings.store_tokens) if settings.store_tokens else None
        self._rows = PerRequest(self._index)

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> SuffixDrafter:
        assert isinstance(spec.settings, SuffixSettings)
        return cls(spec.k, spec.settings)

    def _index(self, row: CommittedRow) -> IndexedRow:
        """A new row, its text read."""
        new = IndexedRow(len(row.ids), None if self._store is None else self._store.reader())
        new.commit(row.ids)
        return new

    def prefill(self, rows: Rows) -> None:
        """Index the new prompts."""
        for row in rows:
            self._rows.of(row)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Look up every row; one without a match gets an empty proposal."""
        found = [
            self._continue(self._rows.of(row), min(self.k, limit))
            for row, limit in zip(rows, limits, strict=True)
        ]
        return Proposal.from_lists(found)

    def _continue(self, row: IndexedRow, limit: int) -> list[int]:
        """Up to `limit` tokens after the longest match; the row's own text comes first."""
        match = row.automaton.match
        stored, text = row.reader.find() if row.reader is not None else (match, [])
        length = max(match.length, stored.length)
        if length < self.settings.min_match:
            return []
        count = min(limit, int(length * self.settings.max_factor))
        if stored.length > match.length:
            return rest_of_answer(text, stored, count)
        return continuation(row.automaton.ids, match.end, count)

    def is_repeating(self, row: CommittedRow) -> bool:
        """Whether its longest match is long."""
        return self._rows.of(row).automaton.match.length >= REPEATING

    def commit(self, rows: Rows) -> None:
        """Index what the rows gained."""
        for row in rows:
            self._rows.of(row).commit(row.ids)

    def forget(self, index: int) -> None:
        """Its answer goes to the store."""
        ended = self._rows.pop(index, None)
        if ended is not None and self._store is not None:
            self._store.add(ended.automaton.ids[ended.num_prompt :])


BORDER = -1  # between answers: no token, so no match spans it
# Tokens that a row reads again after answers came in: matches with those are this long at most.
REREAD = 32


class AnswerStore:
    """Answers of finished requests."""

    def __init__(self, num_tokens: int) -> None:
        """Keep at most `num_tokens` tokens, and at least the newest half of them."""
        self._size = num_tokens // 2  # of a generation, borders included
        self.generations = [SuffixAutomaton()]  # the newest last
        self.version = 0  # grows with every answer

    def __len__(self) -> int:
        """Tokens and borders held."""
        return sum(len(generation.ids) for generation in self.generations)

    def add(self, answer: Sequence[int]) -> None:
        """Keep an answer; of one that is too long, the end."""
        kept = [*answer[-(self._size - 1) :], BORDER] if self._size > 1 and answer else []
        if not kept:
            return
        if len(self.generations[-1].ids) + len(kept) > self._size:
            self.generations = [self.generations[-1], SuffixAutomaton()]
        self.generations[-1].extend(kept)
        self.version += 1

    def reader(self) -> StoreReader:
        """For one row."""
        return StoreReader(self)


class StoreReader:
    """Follows one row's text through the store."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._version = store.version
        self._cursors = [Cursor(generation) for generation in store.generations]

    def read(self, ids: Sequence[int], start: int) -> None:
        """Read what the row's text `ids` gained from `start` on."""
        if self._version != self._store.version:
            self._version = self._store.version
            self._cursors = [Cursor(generation) for generation in self._store.generations]
            start = min(start, max(0, len(ids) - REREAD))
        for cursor in self._cursors:
            cursor.read(ids[start:])

    def find(self) -> tuple[Match, Sequence[int]]:
        """The longest match, the newest of several, and the text that it lies in."""
        best: tuple[Match, Sequence[int]] = NO_MATCH, []
        for cursor in self._cursors:
            if cursor.match.length and cursor.match.length >= best[0].length:
                best = cursor.match, cursor.automaton.ids
        return best


def rest_of_answer(ids: Sequence[int], match: Match, count: int) -> list[int]:
    """Up to `count` tokens that follow a match in a store's text, within the answer."""
    found = list(ids[match.end : match.end + count])
    return found[: found.index(BORDER)] if BORDER in found else found
