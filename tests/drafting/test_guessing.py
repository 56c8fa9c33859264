"""Guesses: what a text says about its next tokens, and how many of them pay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.guessing import (
    HOPELESS,
    Guesser,
    NgramText,
    SuffixText,
    worthwhile_length,
)
from fly.drafting.lookup import NO_MATCH
from tests.models import ids_of

texts = st.lists(st.integers(1, 3), max_size=30)
quick = settings(max_examples=200, derandomize=True, deadline=None)
MAKERS = {
    "earliest": lambda: NgramText(3, "earliest"),
    "latest": lambda: NgramText(3, "latest"),
    "suffix": SuffixText,
}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("cost", [0.05, 0.15, 0.5])
def test_the_worthwhile_length_gains_most_by_time(rate, cost):
    def value(length):
        return sum(rate**place for place in range(length + 1)) / (1 + cost * length)

    best = worthwhile_length(rate, cost, 8)
    assert value(best) == pytest.approx(max(value(length) for length in range(9)))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@quick
@given(committed=texts, rounds=st.lists(st.tuples(texts, texts), max_size=4))
def test_drafted_tokens_leave_no_trace(make, committed, rounds):
    text = make()
    text.extend(committed)
    for drafted, gained in rounds:
        text.draft(drafted)
        whole, (n, end) = committed + drafted, text.find()
        assert not n or whole[end - n : end] == whole[len(whole) - n :]
        assert end < len(whole) or not n
        text.take_back()
        committed = committed + gained
        text.extend(gained)
        fresh = make()
        fresh.extend(committed)
        assert (text.ids, text.find()) == (fresh.ids, fresh.find())
        assert text.following(text.find(), 9) == fresh.following(fresh.find(), 9)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_drafted_tokens_are_continued(make):
    text = make()
    text.extend(ids_of("abcdefg-"))
    text.draft(ids_of("cde"))
    assert text.following(text.find(), 2) == ids_of("fg")
    text.take_back()
    assert text.find() == NO_MATCH
    assert text.following(NO_MATCH, 4) == []


def committed(make, parts, **options):
    guesser = Guesser(make(), **{"longest": 6, "cost": 0.15, **options})
    guesser.commit(ids_of(parts))
    return guesser


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_was_right_is_guessed_longer(make):
    guess = committed(make, "abc" * 12).guess(99)[1]
    assert guess == ids_of("abcabc")[: len(guess)]
    sure = len(committed(make, "abc" * 12).guess(99)[1])
    new = len(committed(make, "abcda").guess(99)[1])
    assert sure > new > 0
    assert len(committed(make, "abc" * 12).guess(2)[1]) == 2, "no more than there is room for"
    assert committed(make, "abc" * 12).guess(0) == (True, [])


def test_what_was_wrong_is_not_guessed_and_tried_again_when_it_would_have_been_right():
    wrong = "".join(f"a{letter}" for letter in "bcdefghijklmnopqrstuvwxyz")
    guesser = committed(MAKERS["earliest"], wrong + "a")
    assert guesser.guess(99) == (True, [])
    guesser.commit(ids_of("ba" * 30))
    has_match, guess = guesser.guess(99)
    assert has_match
    assert guess


def test_free_guesses_are_always_whole():
    wrong = "".join(f"a{letter}" for letter in "bcdefghijklmnopqrstuvwxyz")
    guesser = committed(MAKERS["earliest"], wrong + "a", cost=0.0)
    assert guesser.is_free
    assert guesser.guess(1) == (True, ids_of("bacada"))


def test_hope_fades_and_returns():
    guesser = committed(MAKERS["latest"], "ab")
    assert guesser.is_hopeful
    guesser.commit(list(range(1000, 1400)))
    assert not guesser.is_hopeful
    guesser.commit(list(range(1000, 1020)))
    assert guesser.is_hopeful
    assert 0 < HOPELESS < 0.1


@quick
@given(texts, st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_guesses_hang_on_the_committed_text_alone(ids, drafts, pieces):
    """Neither on how it was committed nor on what was drafted in between."""
    for make in MAKERS.values():
        one, other = Guesser(make(), 6, 0.15), Guesser(make(), 6, 0.15)
        for piece in [ids, *pieces]:
            one.commit(piece)
            for drafted in drafts:
                one.draft(drafted)
                one.guess(9)
                one.take_back()
        other.commit([token for piece in [ids, *pieces] for token in piece])
        assert one.guess(9) == other.guess(9)
        assert one.is_hopeful == other.is_hopeful
