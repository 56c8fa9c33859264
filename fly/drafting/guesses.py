"""Guesses of the draft model's next tokens, and how many of them pay.  They come from a row's text
and from what the draft decoded before; a longer forward checks them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from fly.drafting.lookup import NO_MATCH, Cursor, Match, NgramIndex, SuffixAutomaton, continuation

MAX_LENGTH = 8  # longer matches count as this long
DECAY = 0.95  # of what was noted, by note: 20 notes are remembered
PRIOR, PRIOR_WEIGHT = 0.5, 1.0  # right lookups before anything is noted
# Shorter suffixes that a drafted token is matched with before the match is given up: falls of
# tokens that are taken back again are not paid for by earlier matches.
MAX_FALLS = 16
# Drafted tokens that a guess would have brought, as a share of all, below which a row is not looked
# up while it drafts; the share remembers 50 tokens.
HOPELESS, FADING = 0.02, 0.98
FIRST_YIELD = 0.1  # so that 80 tokens of a new row are looked at


class Text(Protocol):
    """A row's tokens: the committed ones, and after them drafted ones that are taken back."""

    def extend(self, ids: Sequence[int]) -> None:
        """Commit tokens; nothing is drafted at that time."""
        ...

    def draft(self, ids: Sequence[int]) -> None:
        """Append tokens that will be taken back."""
        ...

    def take_back(self) -> None:
        """End with the committed tokens again."""
        ...

    def find(self) -> Match:
        """An earlier occurrence of the longest suffix that has one."""
        ...

    def following(self, match: Match, count: int) -> list[int]:
        """Up to `count` tokens after it."""
        ...


class NgramText(NgramIndex):
    """Earliest matches of up to `max_ngram` tokens, in drafted tokens too, as in released FLy."""

    def __init__(self, max_ngram: int) -> None:
        super().__init__(max_ngram, "earliest")
        self._num_drafted = 0

    def draft(self, ids: Sequence[int]) -> None:
        """Append tokens that will be taken back."""
        self.extend(ids)
        self._num_drafted += len(ids)

    def take_back(self) -> None:
        """Forget the drafted tokens."""
        for _ in range(self._num_drafted):
            end = len(self.ids)
            for n, places in enumerate(self._places[:end], start=1):
                ngram = tuple(self.ids[end - n :])
                if places[ngram] == end - n:
                    del places[ngram]
            self.ids.pop()
        self._num_drafted = 0


class RecentText:
    """Latest matches of up to `max_ngram` tokens, in all that was committed or ever drafted: what
    was refused is often what the draft model gives again after the token that took its place.
    """

    def __init__(self, max_ngram: int) -> None:
        """The empty text."""
        self.read: list[int] = []  # tokens in the order in which they came
        # By n: where in these the token stands that came last after an n-gram of the text.
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in range(max_ngram)]
        self._end: list[int] = []  # the text's last max_ngram tokens
        self._committed_end: list[int] = []
        self._seams: list[int] = []  # places whose tokens did not stand after the ones before

    def extend(self, ids: Sequence[int]) -> None:
        """Commit tokens."""
        self.draft(ids)
        self._committed_end = self._end

    def draft(self, ids: Sequence[int]) -> None:
        """Append tokens that will be taken back."""
        end = [*self._end, *ids]
        for place in range(len(self._end), len(end)):
            for n in range(1, min(len(self._places), place) + 1):
                self._places[n - 1][tuple(end[place - n : place])] = len(self.read)
            self.read.append(end[place])
        self._end = end[-len(self._places) :]

    def take_back(self) -> None:
        """The text ends with its committed tokens again; what was drafted stays known."""
        self._end = self._committed_end
        if self.read:
            self._seams.append(len(self.read))

    def find(self) -> Match:
        """The latest occurrence of the longest suffix that has one; its end counts in all tokens
        that ever came.
        """
        for n in range(len(self._end), 0, -1):
            place = self._places[n - 1].get(tuple(self._end[-n:]))
            if place is not None:
                return Match(n, place)
        return NO_MATCH

    def following(self, match: Match, count: int) -> list[int]:
        """`count` tokens after it, fewer where they were taken back; none without a match."""
        if not match.length:
            return []
        seam = bisect_right(self._seams, match.end)
        if seam < len(self._seams):
            return self.read[match.end : min(match.end + count, self._seams[seam])]
        return continuation(self.read, match.end, count)


class SuffixText:
    """Matches of any length, in committed tokens only."""

    def __init__(self) -> None:
        """The empty text."""
        self.automaton = SuffixAutomaton()
        self._drafted: list[int] = []
        self._cursor: Cursor | None = None

    @property
    def ids(self) -> list[int]:
        """The committed tokens."""
        return self.automaton.ids

    def extend(self, ids: Sequence[int]) -> None:
        """Commit tokens."""
        self.automaton.extend(ids)

    def draft(self, ids: Sequence[int]) -> None:
        """Append tokens that will be taken back."""
        self._drafted += ids
        self._cursor = self._cursor or self.automaton.cursor()
        self._cursor.read(ids, MAX_FALLS)

    def take_back(self) -> None:
        """Forget the drafted tokens."""
        self._drafted, self._cursor = [], None

    def find(self) -> Match:
        """An earlier occurrence of the longest suffix that has one."""
        return self._cursor.match if self._drafted and self._cursor else self.automaton.match

    def following(self, match: Match, count: int) -> list[int]:
        """`count` tokens after it; none without a match."""
        if not match.length:
            return []
        return continuation(self.ids, match.end, count, self._drafted)


def worthwhile_length(rate: float, cost: float, longest: int) -> int:
    """How many tokens to guess for the most tokens by time, when each is right with probability
    `rate` if those before it are, and makes a forward longer by the share `cost`.
    """
    best, gained, probability = 1.0, 1.0, 1.0  # a forward without a guess gains a token
    for length in range(1, longest + 1):
        probability *= rate
        gained += probability
        value = gained / (1 + cost * length)
        if value <= best:
            return length - 1
        best = value
    return longest


class Guesser:
    """Guesses a row's next tokens.

    Whether they pay is judged by what was drafted: at every token it is noted whether the lookup
    would have given it, by the length of the match.  So a guess costs nothing where lookups were
    wrong lately, and they are tried again when they would have been right.
    """

    def __init__(self, text: Text, longest: int, cost: float) -> None:
        """Guess up to `longest` tokens; each makes a forward longer by the share `cost`."""
        self.text = text
        self._longest, self._cost = longest, cost
        self._right = [PRIOR * PRIOR_WEIGHT] * (MAX_LENGTH + 1)  # by length of the match
        self._noted = [PRIOR_WEIGHT] * (MAX_LENGTH + 1)
        self._yield = FIRST_YIELD
        self.num_committed = 0

    def commit(self, ids: Sequence[int]) -> None:
        """Append committed tokens."""
        self.text.extend(ids)
        self.num_committed += len(ids)

    def draft(self, ids: Sequence[int]) -> None:
        """Append tokens that `take_back` takes back; note whether they would have been guessed."""
        text, right, noted = self.text, self._right, self._noted
        for token in ids:
            match = text.find()
            is_right = False
            if match.length:
                kind = min(match.length, MAX_LENGTH)
                is_right = text.following(match, 1)[0] == token
                right[kind] = right[kind] * DECAY + is_right
                noted[kind] = noted[kind] * DECAY + 1
            self._yield = self._yield * FADING + (1 - FADING) * is_right
            text.draft((token,))

    def take_back(self) -> None:
        """The text ends with its committed tokens again."""
        self.text.take_back()

    def guess(self, room: int) -> tuple[bool, list[int]]:
        """Whether there is a match, and what probably follows, as far as it pays: at most `room`
        tokens, unless guesses are free.
        """
        match = self.text.find()
        if not match.length:
            return False, []
        kind = min(match.length, MAX_LENGTH)
        rate = self._right[kind] / self._noted[kind]
        count = self._longest
        if not self.is_free:
            count = worthwhile_length(rate, self._cost, min(count, room))
        return True, self.text.following(match, count)

    @property
    def is_free(self) -> bool:
        """Whether guesses cost nothing, so that every one is made."""
        return self._cost == 0

    @property
    def is_hopeful(self) -> bool:
        """Whether lookups have given so many of the last tokens that drafted ones are looked at
        although a device must be waited for.
        """
        return self.is_free or self._yield > HOPELESS


MakeText = Callable[[], Text]
