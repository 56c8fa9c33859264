"""Prompt lookup: continue an occurrence of the text's last n tokens.
Source: the released FLy code (AMD-AGI/FLy, 6667ae8) and prompt lookup decoding.  Differs: a text
    shorter than 2n tokens is looked up with shorter n-grams instead of failing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fly.drafting.settings import Which


class Match(NamedTuple):
    """A suffix of a text that occurred in it before."""

    length: int  # tokens; 0 for none
    end: int  # tokens of the text up to the end of the earlier occurrence


NO_MATCH = Match(0, 0)


class NgramIndex:
    """Where every n-gram of a growing text stands, so that a lookup costs the same however long
    the text is.
    """

    def __init__(self, max_ngram: int, which: Which = "earliest") -> None:
        """Index n-grams of 1 to `max_ngram` tokens; of several occurrences the earliest or the
        latest is continued.
        """
        self.ids: list[int] = []
        self._is_latest = which == "latest"
        # By n: where an n-gram begins, for the first time or the last.
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in range(max_ngram)]
        # By n and place: where the n-gram there began before, -1 for nowhere; only for the latest.
        self._before: list[list[int]] = [[] for _ in range(max_ngram)]

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens to the text."""
        for token in ids:
            self.ids.append(token)
            length = len(self.ids)
            for n, places in enumerate(self._places, start=1):
                if n > length:
                    break
                ngram, start = tuple(self.ids[length - n :]), length - n
                if self._is_latest:
                    self._before[n - 1].append(places.get(ngram, -1))
                    places[ngram] = start
                else:
                    places.setdefault(ngram, start)

    def find(self) -> Match:
        """The longest suffix that occurred before, clear of itself."""
        length = len(self.ids)
        for n in range(min(len(self._places), length // 2), 0, -1):
            start = self._places[n - 1][tuple(self.ids[length - n :])]
            while start > length - 2 * n and self._is_latest:  # n times at most
                start = self._before[n - 1][start]
            if 0 <= start <= length - 2 * n:
                return Match(n, start + n)
        return NO_MATCH

    def following(self, match: Match, count: int) -> list[int]:
        """Up to `count` tokens that follow a match."""
        return self.ids[match.end : match.end + count] if match.length else []

    def continuation(self, count: int) -> list[int]:
        """Up to `count` tokens that follow the occurrence of the longest known suffix."""
        return self.following(self.find(), count)
