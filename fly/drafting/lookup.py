"""Prompt lookup: continue the earliest occurrence of the text's last n tokens.
Source: the released FLy code (AMD-AGI/FLy, 6667ae8) and prompt lookup decoding.  Differs: a text
    shorter than 2n tokens is looked up with shorter n-grams instead of failing.
"""

from __future__ import annotations

from collections.abc import Iterable


class NgramIndex:
    """The first position of every n-gram of a growing text, so that a lookup costs the same however
    long the text is.
    """

    def __init__(self, max_ngram: int) -> None:
        """Index n-grams of 1 to `max_ngram` tokens."""
        self.ids: list[int] = []
        self._first: list[dict[tuple[int, ...], int]] = [{} for _ in range(max_ngram)]

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens to the text."""
        for token in ids:
            self.ids.append(token)
            length = len(self.ids)
            for n, first in enumerate(self._first, start=1):
                if n > length:
                    break
                first.setdefault(tuple(self.ids[length - n :]), length - n)

    def rewind(self, length: int) -> None:
        """Take back all tokens behind the first `length`."""
        while len(self.ids) > length:
            end = len(self.ids)
            for n, first in enumerate(self._first, start=1):
                ngram = tuple(self.ids[end - n :])
                if n <= end and first.get(ngram) == end - n:
                    del first[ngram]
            self.ids.pop()

    def continuation(self, count: int) -> list[int]:
        """Up to `count` tokens that follow the earliest occurrence of the longest known suffix,
        which may not overlap it.
        """
        length = len(self.ids)
        for n in range(min(len(self._first), length // 2), 0, -1):
            start = self._first[n - 1][tuple(self.ids[length - n :])]
            if start <= length - 2 * n:
                return self.ids[start + n : start + n + count]
        return []
