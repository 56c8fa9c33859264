"""Store of earlier requests' answers for drafters to look up: bounded, the oldest leave first.
Source: SuffixDecoding's tree of earlier outputs (arXiv 2411.04975).  Differs: an automaton, which
nothing can be taken out of; so there are two generations, and the older one goes as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from fly.drafting.lookup import NO_MATCH, Cursor, Match, SuffixAutomaton

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
        """Nothing is read yet."""
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
