"""The n-gram index equals a search through the whole text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.lookup import NgramIndex

texts = st.lists(st.integers(0, 2), max_size=40)
quick = settings(max_examples=200, derandomize=True, deadline=None)


def search(ids: list[int], max_ngram: int, count: int) -> list[int]:
    """What follows the earliest occurrence, clear of the suffix itself, of the longest suffix."""
    for n in range(max_ngram, 0, -1):
        for start in range(len(ids) - 2 * n + 1):
            if ids[start : start + n] == ids[-n:]:
                return ids[start + n : start + n + count]
    return []


def indexed(ids, max_ngram):
    index = NgramIndex(max_ngram)
    index.extend(ids)
    return index


CASES = {  # text, longest n-gram, count, continuation
    "earliest of two": ("ABCABDAB", 2, 2, "CA"),
    "longest suffix first": ("XBYABZAB", 2, 1, "Z"),
    "shorter where the longer is new": ("XBYAB", 2, 1, "Y"),
    "no overlap with the suffix": ("AAA", 2, 9, "AA"),
    "up to the end of the text": ("ABAB", 2, 9, "AB"),
    "nothing known": ("ABCD", 4, 3, ""),
    "one token": ("A", 4, 3, ""),
    "two equal tokens": ("AA", 4, 3, "A"),
    "three tokens": ("ABA", 4, 3, "BA"),
    "empty": ("", 4, 3, ""),
    "count 0": ("ABAB", 2, 0, ""),
}


@pytest.mark.parametrize(("text", "max_ngram", "count", "want"), CASES.values(), ids=CASES)
def test_continuation(text, max_ngram, count, want):
    ids = [ord(letter) for letter in text]
    got = "".join(map(chr, indexed(ids, max_ngram).continuation(count)))
    assert got == want
    assert search(ids, max_ngram, count) == [ord(letter) for letter in want]


@quick
@given(texts, st.integers(1, 5), st.integers(0, 6))
def test_equals_a_search(ids, max_ngram, count):
    assert indexed(ids, max_ngram).continuation(count) == search(ids, max_ngram, count)


@quick
@given(texts, st.lists(st.tuples(st.integers(0, 40), texts), max_size=4), st.integers(1, 5))
def test_rewinding_equals_rebuilding(ids, changes, max_ngram):
    index = indexed(ids, max_ngram)
    for length, more in changes:
        index.rewind(length)
        ids = ids[:length]
        fresh = indexed(ids, max_ngram)
        assert (index.ids, index._first) == (fresh.ids, fresh._first)
        index.extend(more)
        ids = ids + more
        assert index.continuation(4) == search(ids, max_ngram, 4)
