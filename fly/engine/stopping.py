"""End of an answer, by end token, stop string or budget.  Nothing after the end is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from fly.engine.batch import FinishReason, Row, Said
from fly.engine.request import Request, Thinking
from fly.engine.spans import TokenTexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def eos_ids(model: PreTrainedModel, more: Iterable[int] = ()) -> frozenset[int]:
    """All ids that end an answer: those that end it in `generate`, and the caller's.

    `generate` reads the generation config alone.  transformers makes that of config.json where
    there is no generation_config.json; a model that has none is read the same way.

    Args:
        model: as loaded.
        more: ids of the caller's own.
    """
    holder = getattr(model, "generation_config", None) or model.config
    found: Any = getattr(holder, "eos_token_id", None)
    own = found if isinstance(found, (list, tuple)) else [] if found is None else [found]
    return frozenset([*own, *more])


@dataclass(frozen=True)
class Ending:
    """Number of new tokens kept, and the reason of the end; `reason` is None while the answer goes
    on."""

    num_kept: int
    reason: FinishReason | None


@dataclass(frozen=True)
class StopRules:
    """Ends of an answer, unless its request sets others (`of`)."""

    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]
    _known: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)

    def strings(self, request: Request) -> StopStrings:
        """A request's stop strings, for following its answer."""
        key = request.stop, request.thinking
        if key not in self._known:
            pieces = self._known.setdefault("pieces", TokenTexts(self.tokenizer))
            self._known[key] = StopStrings(*key, pieces)
        found: StopStrings = self._known[key]
        return found

    def end_of(self, row: Row, num_new: int) -> Ending:
        """The first end among the last `num_new` tokens of a row, which it has just got."""
        answer, remaining, request = row.answer, row.remaining + num_new, row.request
        rules = self.of(request)
        if request.thinking is None:
            return rules.find_end(answer, num_new, remaining, request.stop)
        strings = self.strings(request)
        old = len(answer) - num_new
        ending = rules.find_end(answer, num_new, remaining, ())
        kept = strings.first_stop(strings.follow(row, old), answer[old : old + ending.num_kept])
        return _earlier(ending, kept)

    def is_thinking(self, row: Row, count: int) -> bool:
        """Whether a row's thinking is not over after the first `count` tokens of its answer."""
        if row.request.thinking is None:
            return False
        return not self.strings(row.request).follow(row, count).counts

    def of(self, request: Request) -> StopRules:
        """With the request's own end tokens, where it names some."""
        own = request.eos_ids
        return self if own is None else replace(self, eos_ids=own)

    def find_end(
        self, answer: list[int], num_new: int, remaining: int, stop: tuple[str, ...]
    ) -> Ending:
        """Look for the first end among the last `num_new` tokens of `answer`.

        Args:
            answer: all emitted ids, the new ones included.
            num_new: how many of them this round brought; the others are known not to end it.
            remaining: how many new tokens the budget allows.
            stop: stop strings, none of them empty.
        """
        old = len(answer) - num_new
        ending = Ending(num_new, None)
        for count, token in enumerate(answer[old:], start=1):
            if token in self.eos_ids:
                ending = Ending(count, "eos")
                break
        if ending.num_kept > remaining or (ending.num_kept == remaining and not ending.reason):
            ending = Ending(remaining, "length")
        if not stop:
            return ending
        kept = self._first_stop(answer[: old + ending.num_kept], ending.num_kept, stop)
        return _earlier(ending, kept)

    def _first_stop(self, answer: list[int], num_new: int, stop: tuple[str, ...]) -> int | None:
        """How many of the new tokens it takes until a stop string is complete; None if none is."""
        # A token carries at least one byte, so the longest string can begin within this tail.  It
        # reaches 4 tokens further back, so that no character is cut in half.
        reach = max(len(text.encode()) for text in stop) + 4
        tail = answer[max(0, len(answer) - num_new - reach) :]
        if not self._has_stop(tail, stop):
            return None
        old = len(tail) - num_new
        for count in range(1, num_new + 1):
            if self._has_stop(tail[: old + count], stop):
                return count
        return None

    def _has_stop(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        text = self.tokenizer.decode(ids)
        return any(string in text for string in stop)

    def text(self, answer: list[int], request: Request) -> str:
        """The answer without special tokens, up to the first stop string that counts."""
        text = str(self.tokenizer.decode(answer, skip_special_tokens=True))
        begin = 0
        if request.thinking is not None:
            strings = self.strings(request)
            if not reduce(strings.extend, answer, strings.start).counts:
                return text
            begin = len(text) - len(self._behind(request.thinking, text, answer).lstrip())
        ends = (text.find(string, begin) for string in request.stop)
        return text[: min((end for end in ends if end >= 0), default=None)]

    def _behind(self, thinking: Thinking, text: str, answer: list[int]) -> str:
        """The text after the last mark of the thinking's end; all of it where there is none."""
        end = thinking.end
        if isinstance(end, str):
            return text.rpartition(end)[2]
        if end not in answer:
            return text
        behind = answer[len(answer) - answer[::-1].index(end) :]
        return str(self.tokenizer.decode(behind, skip_special_tokens=True))


def _earlier(ending: Ending, num_to_stop: int | None) -> Ending:
    """Whichever comes first.  An end token whose own text is the stop string ends the answer as
    what it is."""
    if num_to_stop is None or (num_to_stop == ending.num_kept and ending.reason == "eos"):
        return ending
    return Ending(num_to_stop, "stop")


class StopStrings:
    """The stop strings of one request, none of them empty."""

    def __init__(self, stop: Sequence[str], thinking: Thinking | None, pieces: TokenTexts) -> None:
        """Follow answers.

        Args:
            stop: the strings.
            thinking: after which they count; None: everywhere.
            pieces: of the tokenizer.
        """
        self._pieces = pieces
        self._stops = tuple(string.encode() for string in stop)
        self._beginnings = tuple({s[:n] for s in self._stops for n in range(1, len(s))})
        self._thinking = thinking
        self._markers: list[tuple[bytes, bool]] = []  # and whether thinking is over after each
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
        """The text after the last marker in it, without the blanks that an answer begins with:
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
        """How many tokens after `said` it takes until a stop string is complete; None if none
        is."""
        for count, token in enumerate(tokens, start=1):
            said = self.extend(said, token)
            if said.has_stop:
                return count
        return None


def opening_of(end: str) -> str | None:
    """The marker that `end` closes, as </think> does <think>; None where it has no such form."""
    opening = end.replace("/", "", 1)
    return opening if opening and opening not in end else None
