"""Bytes of each token, so that two tokenizers can be compared.  Byte-level BPE writes the bytes of
its tokens as printable stand-ins (a space is Ġ); sentencepiece marks spaces with ▁ and has tokens
such as <0x0A> for bytes that no other token holds."""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from fly.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# An id, and where the bytes that it stands for end.
Spelt: TypeAlias = tuple[int, int]

SPACE_MARK = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_STRAY = re.compile("([\udc80-\udcff]+)")  # as `surrogateescape` writes bytes that are no UTF-8
# Written before a text that stands in the middle of another: a tokenizer that puts a space before
# every text puts it before these.  Several, since the text may merge with one.
_ANCHORS = ("\n", "x", ".")
# Of the tokens, how many must consist of stand-ins alone: some vocabularies have a few odd ones.
_MOST = 0.99


@functools.cache
def stand_ins() -> dict[str, int]:
    """The printable characters that byte-level BPE writes for the 256 bytes.  Source: GPT-2's
    `bytes_to_unicode`.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


def without_tail(data: bytes) -> bytes:
    """The bytes but for a character at their end that is not complete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    tail, _ = decoder.getstate()
    return data[: len(data) - len(tail)]


class TokenBytes:
    """One tokenizer.  Special tokens have no bytes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
        """Read the vocabulary.

        Args:
            tokenizer: byte-level or of sentencepiece's kind.
            role: whose it is, for messages.

        Raises:
            ConfigError: it is neither.
        """
        self.tokenizer = tokenizer
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        added = tokenizer.added_tokens_decoder
        special = {index for index, token in added.items() if token.special}
        self.special = special | set(tokenizer.all_special_ids)
        words = {index: word for word, index in self.vocabulary.items() if index not in added}
        bytes_of = stand_ins()
        num_plain = sum(all(char in bytes_of for char in word) for word in words.values())
        self._is_byte_level = num_plain >= _MOST * len(words)
        if not self._is_byte_level and not any(map(_is_sentencepiece, words.values())):
            raise ConfigError(
                f"the {role}'s tokenizer is neither byte-level BPE nor of sentencepiece's kind, "
                "so what its tokens spell is not known",
                fix="draft with 'model' and a draft of the target's family, or with 'ngram'",
            )
        words |= {index: token.content for index, token in added.items()}
        self._pieces = {
            index: self._spell(word, is_added=index in added)
            for index, word in words.items()
            if index not in self.special
        }
        self.by_bytes = self._invert(words)
        self._single = {key[0]: index for key, index in self.by_bytes.items() if len(key) == 1}
        probe = self._encode("a")
        self.opens_with_space = self.spell(probe) == b" a"
        begun: list[int] = tokenizer.encode("", add_special_tokens=True)
        bos = tokenizer.bos_token_id
        self.prefix = [bos] if bos is not None and begun[:1] == [bos] else []

    def _spell(self, word: str, *, is_added: bool) -> bytes:
        """What a word of the vocabulary stands for."""
        if not self._is_byte_level:
            byte = _BYTE_TOKEN.fullmatch(word)
            if byte and not is_added:
                return bytes([int(byte[1], 16)])
            return word.replace(SPACE_MARK, " ").encode()
        bytes_of = stand_ins() if not is_added else {}
        if all(char in bytes_of for char in word):
            return bytes(bytes_of[char] for char in word)
        return word.encode()

    def _invert(self, words: dict[int, str]) -> dict[bytes, int]:
        """One id for each byte string; of two, the one that is no byte token, then the smaller."""

        def rank(index: int) -> tuple[bool, int]:
            return _BYTE_TOKEN.fullmatch(words[index]) is not None, index

        by_bytes: dict[bytes, int] = {}
        for index in sorted(self._pieces, key=rank):
            if self._pieces[index]:
                by_bytes.setdefault(self._pieces[index], index)
        return by_bytes

    def __getitem__(self, index: int) -> bytes | None:
        """Bytes of an id; None for special tokens and ids that the tokenizer does not have."""
        return self._pieces.get(index)

    def spell(self, ids: Iterable[int]) -> bytes:
        """Bytes of several ids, joined."""
        return b"".join(self._pieces.get(index) or b"" for index in ids)

    def can_spell(self, data: bytes) -> bool:
        """Whether there is a token for each of these bytes."""
        return all(byte in self._single for byte in data)

    def encode(self, data: bytes, *, opens: bool = False) -> list[Spelt]:
        """Ids of any bytes.  Those that are no UTF-8 become tokens of single bytes, or are left
        out where there is none.

        Args:
            data: the bytes to encode.
            opens: it is the beginning of a text, where a tokenizer may put a space before it; that
                space is not counted.
        """
        found: list[Spelt] = []
        place = 0
        for part in filter(None, _STRAY.split(data.decode("utf-8", "surrogateescape"))):
            raw = part.encode("utf-8", "surrogateescape")
            if _STRAY.fullmatch(part):
                known = ((self._single.get(byte), end) for end, byte in enumerate(raw, place + 1))
                found += [(index, end) for index, end in known if index is not None]
            else:
                found += self._encode_text(part, raw, place, opens and place == 0)
            place += len(raw)
        return found

    def _encode_text(self, text: str, raw: bytes, begin: int, opens: bool) -> list[Spelt]:
        ids = self._encode(text)
        spelt = self.spell(ids)
        if spelt == raw:
            return list(self._placed(ids, begin))
        if spelt == b" " + raw and opens:
            return list(self._placed(ids, begin - 1))
        for anchor in _ANCHORS:
            whole = self._encode(anchor + text)
            spelt = self.spell(whole)
            placed = list(self._placed(whole, begin + len(raw) - len(spelt)))
            if spelt.endswith(raw) and any(end == begin for _, end in placed):
                return [(index, end) for index, end in placed if end > begin]
        # The tokenizer changes the text.  Where its tokens lie in it is not known, but for the end.
        end = begin + len(raw)
        return [(index, begin) for index in ids[:-1]] + [(index, end) for index in ids[-1:]]

    def _placed(self, ids: Iterable[int], begin: int) -> Iterator[Spelt]:
        for index in ids:
            begin += len(self._pieces.get(index) or b"")
            yield index, begin

    def _encode(self, text: str) -> list[int]:
        """The tokenizer's own ids; what looks like a special token is text."""
        ids: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return ids


def _is_sentencepiece(word: str) -> bool:
    return SPACE_MARK in word or _BYTE_TOKEN.fullmatch(word) is not None


def counterparts(source: TokenBytes, destination: TokenBytes) -> dict[int, int]:
    """Special tokens of one tokenizer to ids of the other: those of the same name, and those that
    begin or end a text.  The others have none.
    """
    names = {index: word for word, index in source.vocabulary.items() if index in source.special}
    unknown = source.tokenizer.unk_token_id
    found = {
        index: destination.vocabulary[name]
        for index, name in names.items()
        if name in destination.vocabulary and index != unknown
    }
    for role in ("eos_token_id", "bos_token_id"):
        own, other = (getattr(each.tokenizer, role, None) for each in (source, destination))
        if own is not None and other is not None:
            found.setdefault(own, other)
    return found
