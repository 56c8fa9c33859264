"""Guesses: what a text says about its next tokens, and how many of them pay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.guesses import (
    HOPELESS,
    Guesser,
    NgramText,
    RecentText,
    SuffixText,
    worthwhile_length,
)
from fly.drafting.lookup import NO_MATCH
from tests.drafting.counting import lines_of
from tests.models import ids_of

texts = st.lists(st.integers(1, 3), max_size=30)
quick = settings(max_examples=200, derandomize=True, deadline=None)
FORGETFUL = {"earliest": lambda: NgramText(3), "suffix": SuffixText}
MAKERS = {**FORGETFUL, "latest": lambda: RecentText(3)}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("cost", [0.05, 0.15, 0.5])
def test_the_worthwhile_length_gains_most_by_time(rate, cost):
    def value(length):
        return sum(rate**place for place in range(length + 1)) / (1 + cost * length)

    best = worthwhile_length(rate, cost, 8)
    assert value(best) == pytest.approx(max(value(length) for length in range(9)))


@pytest.mark.parametrize("make", FORGETFUL.values(), ids=FORGETFUL)
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
    # The one that remembers has seen "c" behind "-".
    known = ids_of("cd") if make is MAKERS["latest"] else []
    assert text.following(text.find(), 2) == known
    assert text.following(NO_MATCH, 4) == []


def last_seen(events, max_ngram, count):
    """By brute force: the longest known suffix of the text, where the token stands that came last
    behind it, of all that came, and `count` tokens from there on.
    """
    text, drafted, seen, number = [], [], [], 0
    for kind, ids in events:
        if kind == "commit":
            drafted, number = [], number + 1
        for token in ids:
            seen.append((token, [*text, *drafted][-max_ngram:], number))
            (drafted if kind == "draft" else text).append(token)
    whole = [*text, *drafted]
    for n in range(min(max_ngram, len(whole)), 0, -1):
        for place in range(len(seen) - 1, -1, -1):
            if len(seen[place][1]) >= n and seen[place][1][-n:] == whole[-n:]:
                found = [token for token, _, other in seen[place:] if other == seen[place][2]]
                if seen[place][2] == number:  # nothing was taken back since: it goes on so
                    found = [found[index % len(found)] for index in range(count)]
                return (n, place), found[:count]
    return NO_MATCH, []


@quick
@given(st.lists(st.tuples(st.sampled_from(["draft", "commit"]), texts), max_size=6))
def test_what_came_last_is_said_again(events):
    text = RecentText(3)
    for kind, ids in events:
        if kind == "commit":
            text.take_back()
            text.extend(ids)
        else:
            text.draft(ids)
    match, following = last_seen(events, 3, 9)
    assert text.find() == match
    assert text.following(text.find(), 9) == following


def test_a_refused_proposal_is_found_again_behind_the_token_that_took_its_place():
    guesser = Guesser(RecentText(4), 6, 0.05)
    guesser.commit(ids_of("ab"))
    guesser.draft(ids_of("cdefgh"))
    guesser.take_back()
    guesser.commit(ids_of("x"))
    assert guesser.guess(9) == (False, []), "nothing ever came behind x"
    guesser.draft(ids_of("de"))
    has_match, guess = guesser.guess(9)
    assert has_match
    assert guess == ids_of("fgh")[: len(guess)]
    assert guess
    assert guesser.text.following(guesser.text.find(), 9) == ids_of("fgh"), "it ended there"


def drafted(make, parts, **options):
    guesser = Guesser(make(), **{"longest": 6, "cost": 0.15, **options})
    guesser.draft(ids_of(parts))
    return guesser


# A suffix automaton does not look into drafted tokens.
IN_DRAFTS = {name: make for name, make in MAKERS.items() if name != "suffix"}


@pytest.mark.parametrize("make", IN_DRAFTS.values(), ids=IN_DRAFTS)
def test_what_was_right_is_guessed_longer(make):
    guess = drafted(make, "abc" * 12).guess(99)[1]
    assert guess == ids_of("abcabc")[: len(guess)]
    sure = len(drafted(make, "abc" * 12).guess(99)[1])
    new = len(drafted(make, "abcda").guess(99)[1])
    assert sure > new > 0
    assert len(drafted(make, "abc" * 12).guess(2)[1]) == 2, "no more than there is room for"
    assert drafted(make, "abc" * 12).guess(0) == (True, [])


def test_suffix_guesses_are_judged_by_drafted_tokens_and_found_in_committed_ones():
    guesser = Guesser(SuffixText(), 6, 0.15)
    guesser.commit(ids_of("abcdefghijklmnop-"))
    new = len(guesser.guess(9)[1])
    guesser.draft(ids_of("abcdefgh"))
    has_match, guess = guesser.guess(9)
    assert has_match
    assert guess == ids_of("ijklmn")[: len(guess)]
    assert len(guess) > new


def test_what_was_wrong_is_not_guessed_and_tried_again_when_it_would_have_been_right():
    wrong = "".join(f"a{letter}" for letter in "bcdefghijklmnopqrstuvwxyz")
    guesser = drafted(MAKERS["earliest"], wrong + "a")
    assert guesser.guess(99) == (True, [])
    guesser.draft(ids_of("ba" * 30))
    has_match, guess = guesser.guess(99)
    assert has_match
    assert guess


def test_free_guesses_are_always_whole():
    wrong = "".join(f"a{letter}" for letter in "bcdefghijklmnopqrstuvwxyz")
    guesser = drafted(MAKERS["earliest"], wrong + "a", cost=0.0)
    assert guesser.is_free
    assert guesser.guess(1) == (True, ids_of("bacada"))


def test_hope_fades_and_returns():
    guesser = drafted(MAKERS["latest"], "ab")
    assert guesser.is_hopeful
    guesser.draft(list(range(1000, 1400)))
    assert not guesser.is_hopeful
    guesser.draft(list(range(1000, 1020)))
    assert guesser.is_hopeful
    assert 0 < HOPELESS < 0.1


@quick
@given(texts, st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_guesses_do_not_hang_on_how_tokens_came_nor_on_what_was_asked(ids, drafts, pieces):
    for make in MAKERS.values():
        one, other = Guesser(make(), 6, 0.15), Guesser(make(), 6, 0.15)
        for piece in [ids, *pieces]:
            one.commit(piece)
            for token in piece:
                other.commit([token])
            for drafted in drafts:
                one.draft(drafted)
                one.guess(9)
                for token in drafted:
                    other.draft([token])
                assert one.guess(9) == other.guess(9)
                one.take_back()
                other.take_back()
        assert one.guess(9) == other.guess(9)
        assert one.is_hopeful == other.is_hopeful


@pytest.mark.parametrize("period", [1, 3, 997])
def test_costs_the_same_behind_long_texts(period):
    """Lines executed for the same rounds, behind 100 and 100,000 other tokens."""
    work = []
    for length in (100, 100_000):
        text = RecentText(4)
        text.extend([place % period for place in range(length)])

        def go_on(text=text, length=length):
            for place in range(length, length + 50):
                text.draft([place % period, 5, 6])
                text.following(text.find(), 8)
                text.take_back()
                text.extend([place % period])

        work.append(lines_of(RecentText, go_on))
    assert 0 < work[1] <= 1.5 * work[0]
