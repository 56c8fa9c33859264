"""The n-gram index equals a search through the whole text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.lookup import Match, NgramIndex
from tests.drafting.counting import lines_of

texts = st.lists(st.integers(0, 2), max_size=40)
which = st.sampled_from(["earliest", "latest"])
quick = settings(max_examples=200, derandomize=True, deadline=None)


def search(ids: list[int], max_ngram: int, count: int, which: str = "earliest") -> list[int]:
    """What follows an occurrence, clear of the suffix itself, of the longest suffix."""
    for n in range(max_ngram, 0, -1):
        starts = list(range(len(ids) - 2 * n + 1))
        for start in starts if which == "earliest" else reversed(starts):
            if ids[start : start + n] == ids[-n:]:
                return ids[start + n : start + n + count]
    return []


def indexed(ids, max_ngram, which="earliest"):
    index = NgramIndex(max_ngram, which)
    index.extend(ids)
    return index


CASES = {  # text, longest n-gram, count, continuation of the earliest, of the latest
    "of two": ("ABCABDAB", 2, 2, "CA", "DA"),
    "longest suffix first": ("XBYABZAB", 2, 1, "Z", "Z"),
    "shorter where the longer is new": ("XBYAB", 2, 1, "Y", "Y"),
    "no overlap with the suffix": ("AAA", 2, 9, "AA", "A"),
    "clear of the suffix, n above 1": ("AAAAAA", 2, 9, "AAAA", "AA"),
    "up to the end of the text": ("ABAB", 2, 9, "AB", "AB"),
    "nothing known": ("ABCD", 4, 3, "", ""),
    "one token": ("A", 4, 3, "", ""),
    "two equal tokens": ("AA", 4, 3, "A", "A"),
    "three tokens": ("ABA", 4, 3, "BA", "BA"),
    "empty": ("", 4, 3, "", ""),
    "count 0": ("ABAB", 2, 0, "", ""),
}


@pytest.mark.parametrize(
    ("text", "max_ngram", "count", "earliest", "latest"), CASES.values(), ids=CASES
)
def test_continuation(text, max_ngram, count, earliest, latest):
    ids = [ord(letter) for letter in text]
    for name, want in (("earliest", earliest), ("latest", latest)):
        got = "".join(map(chr, indexed(ids, max_ngram, name).continuation(count)))
        assert got == want
        assert search(ids, max_ngram, count, name) == [ord(letter) for letter in want]


def test_a_match_says_how_long_it_is_and_where():
    ids = [ord(letter) for letter in "ABCABDAB"]
    assert indexed(ids, 4).find() == Match(2, 2)
    assert indexed(ids, 4, "latest").find() == Match(2, 5)
    assert indexed(ids[:3], 4).find() == Match(0, 0)


@quick
@given(texts, st.integers(1, 5), st.integers(0, 6), which)
def test_equals_a_search(ids, max_ngram, count, which):
    got = indexed(ids, max_ngram, which).continuation(count)
    assert got == search(ids, max_ngram, count, which)


@pytest.mark.parametrize("which", ["earliest", "latest"])
@pytest.mark.parametrize("period", [1, 3, 997])
def test_costs_the_same_in_long_texts(which, period):
    """Lines executed for the same tokens, looked up at each, behind 100 and 100,000 others."""
    work = []
    for length in (100, 100_000):
        index = indexed([place % period for place in range(length)], 4, which)

        def go_on(index=index, length=length):
            for place in range(length, length + 50):
                index.extend([place % period])
                index.continuation(8)

        work.append(lines_of(NgramIndex, go_on))
    assert 0 < work[1] <= 1.5 * work[0]
