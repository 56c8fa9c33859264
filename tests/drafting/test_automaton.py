"""The automaton's longest match equals a search through the whole text, at the same cost per token
however long the text is."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.lookup import NO_MATCH, Cursor, SuffixAutomaton, continuation
from tests.drafting.counting import lines_of

texts = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(1, size), max_size=60))
quick = settings(max_examples=300, derandomize=True, deadline=None)


def longest_earlier(ids: list[int]) -> int:
    """Length of the longest suffix that also ends before the text does."""
    for n in range(len(ids) - 1, 0, -1):
        if any(ids[end - n : end] == ids[-n:] for end in range(n, len(ids))):
            return n
    return 0


def longest_within(ids: list[int], text: list[int]) -> int:
    """Length of the longest suffix of `ids` that occurs in `text`."""
    for n in range(min(len(ids), len(text)), 0, -1):
        if any(text[end - n : end] == ids[-n:] for end in range(n, len(text) + 1)):
            return n
    return 0


def automaton_of(ids):
    automaton = SuffixAutomaton()
    automaton.extend(ids)
    return automaton


@quick
@given(texts)
def test_the_longest_match_of_every_prefix(ids):
    automaton = SuffixAutomaton()
    for length in range(1, len(ids) + 1):
        automaton.extend(ids[length - 1 : length])
        seen, (n, end) = ids[:length], automaton.match
        assert n == longest_earlier(seen)
        if n:
            assert end < length
            assert seen[end - n : end] == seen[-n:]
    assert automaton.ids == ids


@quick
@given(texts)
def test_the_occurrence_is_the_last_longest_match_or_the_first(ids):
    """As documented: of the places where the match's strings end, the one at which one of them was
    itself the longest match last, and their first where none was."""
    automaton = SuffixAutomaton()
    matches = []  # by length of the text: the longest match there
    for length in range(1, len(ids) + 1):
        automaton.extend(ids[length - 1 : length])
        n, end = automaton.match
        if not n:
            matches.append(n)
            continue
        suffix = ids[length - n : length]
        places = [p for p in range(n, length) if ids[p - n : p] == suffix]
        alone = [p for p in places if matches[p - 1] == n]
        matches.append(n)
        assert end >= (max(alone) if alone else places[0])


@quick
@given(texts, texts)
def test_a_cursor_reads_another_text(text, other):
    cursor = Cursor(automaton_of(text))
    for length in range(1, len(other) + 1):
        cursor.read(other[length - 1 : length])
        seen, (n, end) = other[:length], cursor.match
        assert n == longest_within(seen, text)
        assert text[end - n : end] == seen[length - n :]


@quick
@given(texts, texts, texts)
def test_a_cursor_survives_that_the_text_grows(text, more, other):
    """Its match stays a match, if not always the longest."""
    automaton = automaton_of(text)
    cursor = Cursor(automaton)
    for place, token in enumerate(other):
        automaton.extend(more[place : place + 1])
        cursor.read([token])
        seen, (n, end) = other[: place + 1], cursor.match
        assert n <= longest_within(seen, automaton.ids)
        assert automaton.ids[end - n : end] == seen[place + 1 - n :]


@quick
@given(texts, texts)
def test_a_cursor_goes_on_behind_the_text(text, drafted):
    """What may follow the text is matched without being appended to it."""
    automaton = automaton_of(text)
    cursor = automaton.cursor()
    for length in range(1, len(drafted) + 1):
        cursor.read(drafted[length - 1 : length])
        whole, (n, end) = text + drafted[:length], cursor.match
        assert n == longest_within(whole, text)
        assert end <= len(text)
        assert whole[end - n : end] == whole[len(whole) - n :]


def test_falls_are_bounded_where_asked():
    automaton = automaton_of([1] * 200)
    for max_falls, work in ((None, 150), (5, 40)):
        cursor = automaton.cursor()
        lines = lines_of(
            SuffixAutomaton, lambda cursor=cursor, falls=max_falls: cursor.read([2], falls)
        )
        assert (lines < work) == (max_falls is not None)
        assert cursor.match == NO_MATCH


CASES = {  # text, end of the match, count, drafted, continuation
    "within the text": ("abcdabc", 3, 2, "", "da"),
    "to its end": ("abcdabc", 3, 4, "", "dabc"),
    "on in its period": ("abab", 2, 5, "", "ababa"),
    "a period of one": ("aaa", 2, 4, "", "aaaa"),
    "through the drafted end": ("abcd", 3, 4, "abc", "dabc"),
    "behind the drafted end": ("abcd", 3, 9, "abc", "dabcdabcd"),
    "from the text's very end": ("abc", 3, 5, "xy", "xyxyx"),
    "nothing wanted": ("abab", 2, 0, "", ""),
}


@pytest.mark.parametrize(("text", "end", "count", "drafted", "want"), CASES.values(), ids=CASES)
def test_continuation(text, end, count, drafted, want):
    assert "".join(continuation(text, end, count, drafted)) == want


def written(kind, length):
    if kind == "random":
        dice = random.Random(5)
        return [dice.randrange(50) for _ in range(length)]
    if kind == "periodic":
        return [place % 7 for place in range(length)]
    if kind == "one token":
        return [1] * length
    words = [1], [1, 2]  # Fibonacci: the most splits
    while len(words[1]) < length:
        words = words[1], words[1] + words[0]
    return words[1][:length]


@pytest.mark.parametrize("kind", ["random", "periodic", "one token", "fibonacci"])
def test_costs_the_same_in_long_texts(kind):
    """Lines executed per token, over the whole text: amortised constant.  What single lines copy
    is bounded by the number of states and transitions."""
    per_token = []
    for length in (100, 100_000):
        ids, automaton = written(kind, length), SuffixAutomaton()
        per_token.append(lines_of(SuffixAutomaton, lambda a=automaton, i=ids: a.extend(i)) / length)
        assert len(automaton.links) <= 2 * length
        assert sum(map(len, automaton.transitions)) <= 3 * length
    assert per_token[1] <= 1.5 * per_token[0]
    assert per_token[1] < 60
