"""A row's text in the draft model's own tokens, and the way back.  As in transformers' universal
assisted decoding (`AssistedCandidateGeneratorDifferentTokenizers`), a few tokens of text are
encoded anew and aligned with those held by their longest common diagonal."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from operator import itemgetter

from fly.drafting.cross_vocab.token_bytes import Spelt, TokenBytes, counterparts, without_tail

# The target's tokens that are encoded together; what a round brings is encoded with those after
# the last multiple.
STRIDE = 32
# Windows tried, in units of the lookbehind, until one has a token in common with what is held.
REACHES = (1, 2, 4)


def longest_diagonal(old: Sequence[Spelt], new: Sequence[Spelt]) -> tuple[int, int] | None:
    """Where the longest run of common tokens ends, in both; the last one of several.  None if there
    is none.
    """
    places = {token: index for index, token in enumerate(old)}
    found, longest, length, before = None, 0, 0, -1
    for index, token in enumerate(new, 1):
        place = places.get(token, -1)
        is_next = place == before + 1
        length = 0 if place < 0 else length + 1 if is_next else 1
        if length >= max(1, longest):
            longest, found = length, (place + 1, index)
        before = place
    return found


@dataclass(frozen=True)
class Exchange:
    """Two tokenizers, and what is a special token of the other."""

    target: TokenBytes
    draft: TokenBytes
    lookbehind: int  # of the target's tokens

    @cached_property
    def to_draft(self) -> dict[int, int]:
        """The target's special tokens in the draft's ids."""
        return counterparts(self.target, self.draft)

    @cached_property
    def to_target(self) -> dict[int, int]:
        """The draft's special tokens in the target's ids."""
        return counterparts(self.draft, self.target)

    @property
    def opener(self) -> int:
        """The draft's token where it would have none to read."""
        tokenizer = self.draft.tokenizer
        found = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
        return next(index for index in found if index is not None)


@dataclass
class _Text:
    """The draft's tokens of the first `count` tokens of the target."""

    tokens: list[Spelt]
    count: int = 0
    floor: int = 0  # place in the target's tokens after the last special one
    floor_at: int = 0  # the same place in the draft's

    def copy(self) -> _Text:
        return _Text(list(self.tokens), self.count, self.floor, self.floor_at)


class Reencoded:
    """One row as the draft reads it: `ids`, `index` and `key`, like any row.

    Differs from transformers: tokens are the same only if they end at the same byte of the text.
    So a text that repeats itself is never aligned wrongly, and the tokens always stand for what is
    committed; and they are a function of the text alone, however many tokens each round brought.

    A special token of the target is the draft's of the same name or role; where there is none the
    draft reads the text without it.
    """

    def __init__(self, exchange: Exchange, index: int = 0, key: str = "") -> None:
        self._exchange = exchange
        self.index, self.key = index, key
        self._known: list[int] = []  # the target's
        self._offsets = [0]  # bytes before each of them, and in all
        prefix = exchange.draft.prefix
        self._base = _Text([(index, 0) for index in prefix], floor_at=len(prefix))
        self.ids: list[int] = []

    @property
    def settled(self) -> int:
        """Tokens of the draft that no more text will change."""
        base = self._base
        first = base.count - REACHES[-1] * self._exchange.lookbehind
        count = base.floor_at
        if first > base.floor:
            count = bisect_right(base.tokens, self._offsets[first], lo=count, key=itemgetter(1))
        return min(count, len(self.ids))

    @property
    def is_whole(self) -> bool:
        """Whether the draft can be given all of the text: of a character that is not complete it
        needs the single bytes.
        """
        tail = self._bytes(len(self._known) - 4, len(self._known))
        return self._exchange.draft.can_spell(tail[len(without_tail(tail)) :])

    def update(self, ids: Sequence[int]) -> int:
        """Take over what the row gained; how many tokens stayed as they were."""
        new = ids[len(self._known) :]
        self._known += new
        for index in new:
            piece = self._exchange.target[index] or b""
            self._offsets.append(self._offsets[-1] + len(piece))
        begin = self.settled
        while len(self._known) - self._base.count >= STRIDE:
            self._base = self._extended(self._base.count + STRIDE)
        tokens = self._extended(len(self._known)).tokens
        before, self.ids = self.ids, self.ids[:begin] + [index for index, _ in tokens[begin:]]
        if not self.ids:
            self.ids = [self._exchange.opener]
        pairs = zip(before[begin:], self.ids[begin:], strict=False)
        return begin + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _bytes(self, begin: int, end: int) -> bytes:
        return self._exchange.target.spell(self._known[max(0, begin) : end])

    def _extended(self, end: int) -> _Text:
        """The base and the target's tokens after it, up to `end`."""
        text = self._base.copy()
        while text.count < end:
            index = self._known[text.count]
            if index in self._exchange.target.special:
                self._add_special(text, index)
                continue
            ordinary = takewhile(
                lambda index: index not in self._exchange.target.special,
                self._known[text.count : end],
            )
            self._add_text(text, text.count + sum(1 for _ in ordinary))
        return text

    def _add_special(self, text: _Text, index: int) -> None:
        own = self._exchange.to_draft.get(index)
        is_there = text.count == 0 and [own] == self._exchange.draft.prefix
        if own is not None and not is_there:
            text.tokens.append((own, self._offsets[text.count]))
        text.count += 1
        text.floor, text.floor_at = text.count, len(text.tokens)

    def _add_text(self, text: _Text, end: int) -> None:
        """Encode what is new with a window of what was there, and put it in where they agree."""
        for reach in REACHES:
            first = max(text.floor, text.count - reach * self._exchange.lookbehind)
            window = self._encode(first, end)
            if first == text.floor:
                text.tokens[text.floor_at :] = window
                break
            held = text.tokens[text.floor_at :]
            place = len(held)
            while place and held[place - 1][1] > self._offsets[first]:
                place -= 1
            found = longest_diagonal(held[place:], window)
            if found is not None:
                text.tokens[text.floor_at + place + found[0] :] = window[found[1] :]
                break
        else:
            text.tokens += self._encode(text.count, end)
        text.count = end

    def _encode(self, begin: int, end: int) -> list[Spelt]:
        spelt = self._spell(self._exchange.draft, self._bytes(begin, end), begin)
        return [(index, self._offsets[begin] + place) for index, place in spelt]

    def _spell(self, spelling: TokenBytes, data: bytes, begin: int) -> list[Spelt]:
        """Encode what stands at the target's token `begin` and following, but for the space that
        its tokenizer puts before every text.
        """
        opens = self._offsets[begin] == 0
        extra = opens and self._offsets[-1] and self._exchange.target.opens_with_space
        shift = 1 if extra and data.startswith(b" ") else 0
        spelt = spelling.encode(data[shift:], opens=opens)
        return [(index, shift + place) for index, place in spelt]

    def translate(self, drafted: Sequence[int], limit: int) -> list[int]:
        """At most `limit` of the target's tokens for what was drafted after the row.  A
        character that is not complete at its end is left out; a special token without counterpart
        ends it.
        """
        target, draft = self._exchange.target, self._exchange.draft
        spelt = list(takewhile(lambda index: draft[index] is not None, drafted))
        said = draft.spell(spelt)
        if self._offsets[-1] == 0 and draft.opens_with_space:
            said = said.removeprefix(b" ")
        end = len(self._known)
        earliest = max(0, end - self._exchange.lookbehind)
        behind = range(end, earliest, -1)
        first = next((i for i in behind if self._known[i - 1] in target.special), earliest)
        context = self._bytes(first, end)
        data = without_tail(context + said)
        whole = self._spell(target, data, first)
        border = len(context)
        if border and not any(place == border for _, place in whole):
            # A token would reach across; the target has its own there already.
            whole = [(index, border + place) for index, place in target.encode(data[border:])]
        found = [index for index, place in whole if place > border or not border]
        if len(spelt) < len(drafted) and len(data) == border + len(said):
            closing = self._exchange.to_target.get(drafted[len(spelt)])
            found += [] if closing is None else [closing]
        return found[:limit]
