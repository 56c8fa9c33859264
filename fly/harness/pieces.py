"""An answer's text token by token.  The pieces joined are the decoded text, special tokens as their
own strings, whatever the tokenizer does at the edges of a token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what part of a character is decoded to
ANCHORS = ("a", "1", ".")  # texts whose token may stand before another one without changing it
# Tokens that one character may be spread over; after as many without text the window starts anew.
LONGEST = 16


class Pieces:
    """Splits answers of one tokenizer; texts of single tokens are looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        self._first: dict[int, str] = {}
        self._anchor = self._find_anchor()

    def split(self, ids: Sequence[int]) -> list[str]:
        """A piece for every token.

        A character that is spread over several tokens is the last one's, and the others' pieces are
        empty.  Takes one decoding of the whole text, unless the tokens' own texts do not add up to
        it; then one of a few tokens for each.
        """
        ids = list(ids)
        text = self._decode(ids)
        if not ids or not self._anchor:
            return self._align(ids, text)
        pieces = [self._start(ids[0])]
        for is_part, group in groupby(ids[1:], lambda token: UNFINISHED in self.show(token)):
            tokens = list(group)
            if is_part:
                pieces += self._align(tokens, self._behind_anchor(tokens))
            else:
                pieces += map(self.show, tokens)
        return pieces if "".join(pieces) == text else self._align(ids, text)

    def show(self, token: int) -> str:
        """One token's text as it is inside an answer; U+FFFD for a part of a character."""
        if token not in self._known:
            self._known[token] = self._behind_anchor([token])
        return self._known[token]

    def _start(self, token: int) -> str:
        """One token's text at the beginning of an answer, where some tokenizers drop a space."""
        if token not in self._first:
            self._first[token] = self._decode([token])
        return self._first[token]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _find_anchor(self) -> list[int]:
        for text in ANCHORS:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            if ids and self._decode(ids) == text:
                return list(ids)
        return []

    def _behind_anchor(self, tokens: Sequence[int]) -> str:
        before = self._decode(self._anchor)
        return self._decode([*self._anchor, *tokens])[len(before) :]

    def _align(self, ids: Sequence[int], text: str) -> list[str]:
        """Share `text` out among the tokens: each gets what is certain once it is there."""
        pieces: list[str] = []
        begin = read = 0  # the window, and how many tokens have given their text
        before, num_given = "", 0  # the window's text up to there, and characters given in all
        for place in range(len(ids) - 1):
            now = self._decode(ids[begin : place + 1])
            piece = now[len(before) :]
            is_whole = piece and now.startswith(before) and not piece.endswith(UNFINISHED)
            if is_whole and text.startswith(piece, num_given):
                begin, read = read, place + 1
            elif place - read < LONGEST:
                pieces.append("")
                continue
            else:
                piece = _common(self._decode(ids[: place + 1]), text)[num_given:]
                begin, read = place, place + 1
            before = self._decode(ids[begin:read])
            num_given += len(piece)
            pieces.append(piece)
        return [*pieces, text[num_given:]] if ids else []


def _common(one: str, other: str) -> str:
    """What two texts begin with together."""
    pairs = enumerate(zip(one, other, strict=False))
    differing = (place for place, (mine, its) in pairs if mine != its)
    return one[: next(differing, min(len(one), len(other)))]
