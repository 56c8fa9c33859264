"""Text between two markers, followed token by token.  A marker may be one token, special or not, or
several, and may begin or end inside a token.  Text is followed as bytes, since a token may hold
part of a character."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fly.drafting.cross_vocab.token_bytes import stand_ins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNREADABLE = "\N{REPLACEMENT CHARACTER}"  # what decoding makes of part of a character
LONE_BYTE = re.compile("<0x([0-9A-F]{2})>")  # how SentencePiece writes one


class TokenTexts:
    """Text that each token adds, special tokens shown.  Computed when first asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read from this tokenizer."""
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token: int) -> bytes:
        """The token's share of the text; nothing for an id that the tokenizer does not have."""
        piece = self._known.get(token)
        if piece is None:
            piece = self._known[token] = self._read(token)
        return piece

    def _read(self, token: int) -> bytes:
        # Some decoders drop a space that begins the text: the second of two shows it.
        once, twice = self._tokenizer.decode([token]), self._tokenizer.decode([token] * 2)
        text = str(twice)[len(once) :]
        if UNREADABLE not in text:
            return text.encode()
        name = str(self._tokenizer.convert_ids_to_tokens(token))
        lone = LONE_BYTE.fullmatch(name)
        if lone:
            return bytes([int(lone[1], 16)])
        bytes_of = stand_ins()
        if bytes_of.keys() >= set(name):
            return bytes(bytes_of[character] for character in name)
        return text.encode()


class State(NamedTuple):
    """All that matters of a text."""

    is_open: bool = False  # the last marker in it is an opening one
    tail: bytes = b""  # its end, long enough for any marker that is not complete


class Spans:
    """Two markers, neither of which holds the other."""

    def __init__(self, opening: str, closing: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Follow texts of this tokenizer's tokens."""
        self._opening, self._closing = opening.encode(), closing.encode()
        self._kept = max(len(self._opening), len(self._closing)) - 1
        self._beginnings = tuple(self._closing[:n] for n in range(1, len(self._closing)))
        self._pieces = TokenTexts(tokenizer)

    def extend(self, state: State, tokens: Iterable[int]) -> State:
        """What `state` becomes when tokens follow."""
        is_open, tail = state
        for token in tokens:
            text = tail + self._pieces[token]
            # Neither holds the other, so the one that begins last also ends last.
            begin, end = text.rfind(self._opening), text.rfind(self._closing)
            if begin != end:  # -1 each where there is none
                is_open = begin > end
            tail = text[-self._kept :] if self._kept else b""
        return State(is_open, tail)

    def may_close(self, state: State) -> bool:
        """Whether the text ends with the beginning of a closing marker."""
        return state.tail.endswith(self._beginnings)

    def closing_tokens(self, vocab_size: int, device: torch.device) -> Tensor:
        """Tokens that hold a closing marker or end with the beginning of one.  [V] bool."""
        found = torch.tensor([self._is_closing(token) for token in range(vocab_size)])
        return found.to(device)

    def _is_closing(self, token: int) -> bool:
        piece = self._pieces[token]
        return self._closing in piece or piece.endswith(self._beginnings)
