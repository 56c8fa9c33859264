"""Suffix indexes of a growing text, to find its last tokens earlier on.  Sources: `NgramIndex`, the
released FLy code (AMD-AGI/FLy, 6667ae8) and prompt lookup decoding; `SuffixAutomaton`, Blumer et
al. 1985 (the automaton) and SAM decoding, arXiv 2411.10666 (drafting with it)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

Which: TypeAlias = Literal["earliest", "latest"]


class Match(NamedTuple):
    """A suffix of a text that occurred in it before."""

    length: int  # tokens; 0 for none
    end: int  # tokens of the text up to the end of the earlier occurrence


NO_MATCH = Match(0, 0)
ROOT = 0  # the state of the empty string


class NgramIndex:
    """Index of the n-grams of a growing text; a lookup costs the same however long the text is.

    Finds the last n tokens, earliest or latest.  Differs from the released code: a text shorter
    than 2n tokens is looked up with shorter n-grams instead of failing.
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


class SuffixAutomaton:
    """All substrings of a text that grows token by token.

    Finds the longest suffix that occurred before, in amortised constant time per token however long
    the text is: states, transitions and copies of transitions are linear in the text.  A state
    stands for strings that end at the same places of the text; its link leads to the longest suffix
    that ends at more places.  What the whole text's state links to has therefore ended before.
    """

    def __init__(self) -> None:
        """The empty text."""
        self.ids: list[int] = []
        self.match = NO_MATCH  # of the text's longest suffix that also ended earlier
        self.transitions: list[dict[int, int]] = [{}]  # by state: token -> state
        self.links = [-1]  # by state; -1 after the root
        self.lengths = [0]  # by state: of its longest string
        # By state: an end of its strings, the newest at which one was the text's longest match,
        # else their first.  The newest of all would take a logarithm more per token.
        self.ends = [0]
        self._last = ROOT  # the whole text's state

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens."""
        for token in ids:
            self.ids.append(token)
            self._last = self._append(token)
            link = self.links[self._last]
            self.match = Match(self.lengths[link], self.ends[link]) if link else NO_MATCH
            self.ends[link] = len(self.ids)

    def _append(self, token: int) -> int:
        """The state of the text with one more token."""
        transitions, links, lengths = self.transitions, self.links, self.lengths
        end = len(self.ids)
        new = self._add({}, end, end)
        state = self._last
        while state >= 0 and token not in transitions[state]:
            transitions[state][token] = new
            state = links[state]
        if state < 0:
            links[new] = ROOT
            return new
        found = transitions[state][token]
        if lengths[found] > lengths[state] + 1:
            found = self._split(state, token, found)
        links[new] = found
        return new

    def _split(self, state: int, token: int, found: int) -> int:
        """Give those strings of `found` a state of their own that end at one more place now: the
        ones that `state` reaches by `token`.
        """
        transitions, links = self.transitions, self.links
        copy = self._add(dict(transitions[found]), self.lengths[state] + 1, self.ends[found])
        links[copy] = links[found]
        links[found] = copy
        while state >= 0 and transitions[state].get(token) == found:
            transitions[state][token] = copy
            state = links[state]
        return copy

    def _add(self, transitions: dict[int, int], length: int, end: int) -> int:
        self.transitions.append(transitions)
        self.links.append(-1)
        self.lengths.append(length)
        self.ends.append(end)
        return len(self.links) - 1

    def cursor(self) -> Cursor:
        """A reader that stands after the text's own longest match, to read what may follow."""
        return Cursor(self, max(ROOT, self.links[self._last]))


class Cursor:
    """Reads a text of its own and holds its longest suffix that occurs in the automaton's, which
    may grow meanwhile: a match found before then may be shorter than the longest.
    """

    def __init__(self, automaton: SuffixAutomaton, state: int = ROOT) -> None:
        """Begin with the longest string of `state`."""
        self.automaton = automaton
        self._state = state
        self._length = automaton.lengths[state]

    def read(self, ids: Iterable[int], max_falls: int | None = None) -> None:
        """Read tokens; amortised constant time for each.

        Args:
            ids: the tokens.
            max_falls: how many shorter suffixes are tried for a token before the match is given
                up.  For a cursor that does not live on: what it pays was not earned before.
        """
        transitions, links, lengths = (
            self.automaton.transitions,
            self.automaton.links,
            self.automaton.lengths,
        )
        state, length = self._state, self._length
        # A state that was split since the last call keeps the longer strings only.
        while state != ROOT and length <= lengths[links[state]]:
            state = links[state]
        for token in ids:
            falls = 0
            while state != ROOT and token not in transitions[state]:
                state = links[state] if max_falls is None or falls < max_falls else ROOT
                length = lengths[state]
                falls += 1
            following = transitions[state].get(token)
            if following is None:
                continue  # at the root
            state, length = following, length + 1
            while length <= lengths[links[state]]:
                state = links[state]
        self._state, self._length = state, length

    @property
    def match(self) -> Match:
        """The longest suffix of what was read, and where the text has it."""
        return Match(self._length, self.automaton.ends[self._state]) if self._length else NO_MATCH


def continuation(
    ids: Sequence[int], end: int, count: int, drafted: Sequence[int] = ()
) -> list[int]:
    """`count` tokens that follow the first `end` tokens of a text, which ends like them.

    After its end the text is taken to go on as it went from `end` on: what matched there, and
    overlaps the end, repeats itself.

    Args:
        ids: the text's beginning.
        end: below the text's length.
        count: tokens wanted.
        drafted: the text's end.
    """
    found = [*ids[end : end + count], *drafted[max(0, end - len(ids)) :][:count]][:count]
    period = len(ids) + len(drafted) - end
    while len(found) < count:
        found += found[len(found) - period :][: count - len(found)]
    return found
