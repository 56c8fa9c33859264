"""Stop strings followed token by token: whether an answer has one, whether its end may be the
beginning of one, and from where on they count with a model that thinks before it answers.

Text is followed as bytes, since a token may hold part of a character.
"""

from __future__ import annotations

from collections.abc import Sequence

from fly.decoding.request import Thinking
from fly.decoding.rows import Row, Said
from fly.decoding.spans import TokenTexts


class StopStrings:
    """The stop strings of one request, none of them empty."""

    def __init__(self, stop: Sequence[str], thinking: Thinking | None, pieces: TokenTexts) -> None:
        """Follow answers.

        Args:
            stop: the strings.
            thinking: behind which they count; None: everywhere.
            pieces: of the tokenizer.
        """
        self._pieces = pieces
        self._stops = tuple(string.encode() for string in stop)
        self._beginnings = tuple({s[:n] for s in self._stops for n in range(1, len(s))})
        self._thinking = thinking
        self._markers: list[tuple[bytes, bool]] = []  # and whether thinking is over behind each
        if thinking is not None:
            end = thinking.end
            text = end.encode() if isinstance(end, str) else pieces[end]
            if isinstance(end, str):
                self._markers.append((text, True))
            if opening := opening_of(text.decode(errors="replace")):
                self._markers.append((opening.encode(), False))
        lengths = [*map(len, self._stops), *(len(marker) for marker, _ in self._markers)]
        self._kept = max(lengths, default=1)
        self.start = Said(counts=thinking is None or thinking.is_over)

    def extend(self, said: Said, token: int) -> Said:
        """What an answer comes to when a token follows."""
        if self._thinking is not None and token == self._thinking.end:
            return Said()
        text, counts = said.tail + self._pieces[token], said.counts
        if self._thinking is not None:
            text, counts = self._behind_thinking(text, counts, is_blank=not said.tail)
        if not counts:
            return Said(text[-self._kept :], counts=False)
        has_stop = any(string in text for string in self._stops)
        is_concerned = has_stop or text.endswith(self._beginnings)
        return Said(text[-self._kept :], True, is_concerned, has_stop)

    def _behind_thinking(self, text: bytes, counts: bool, *, is_blank: bool) -> tuple[bytes, bool]:
        """The text behind the last marker in it, without the blanks that an answer begins with:
        lm-eval strips them before it looks for stop strings."""
        places = [(text.rfind(marker), marker, is_over) for marker, is_over in self._markers]
        place, marker, is_over = max(places, default=(-1, b"", False))
        if place >= 0:
            text, counts, is_blank = text[place + len(marker) :], is_over, True
        return text.lstrip() if counts and is_blank else text, counts

    def follow(self, row: Row, count: int | None = None) -> Said:
        """What the first `count` tokens of a row's answer come to, all of them if None; never
        fewer than at the last call.  Only new ones are read."""
        num_read, said = row.said or (0, self.start)
        first = len(row.request.prompt_ids)
        end = len(row.ids) if count is None else first + count
        for token in row.ids[first + num_read : end]:
            said = self.extend(said, token)
        row.said = end - first, said
        return said

    def first_stop(self, said: Said, tokens: Sequence[int]) -> int | None:
        """How many tokens behind `said` it takes until a stop string is complete; None if none
        is."""
        for count, token in enumerate(tokens, start=1):
            said = self.extend(said, token)
            if said.has_stop:
                return count
        return None


def opening_of(end: str) -> str | None:
    """The marker that `end` closes, as </think> does <think>; None where it does not tell."""
    opening = end.replace("/", "", 1)
    return opening if opening and opening not in end else None
