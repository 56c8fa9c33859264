"""The store of answers: bounded, the oldest leave first, matches stay within an answer."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.lookup import NO_MATCH, SuffixAutomaton
from fly.drafting.suffix import BORDER, REREAD, AnswerStore, rest_of_answer
from tests.drafting.counting import lines_of
from tests.drafting.test_automaton import longest_within
from tests.models import ids_of

answers = st.lists(st.lists(st.integers(1, 3), max_size=12), max_size=12)
quick = settings(max_examples=150, derandomize=True, deadline=None)


def kept(store):
    """The answers that a store holds, in order."""
    found, rest = [], [token for part in store.generations for token in part.ids]
    while rest:
        border = rest.index(BORDER)
        found.append(rest[:border])
        rest = rest[border + 1 :]
    return found


@quick
@given(answers, st.integers(4, 60))
def test_it_holds_the_newest_answers_and_no_more_than_it_may(given, size):
    store = AnswerStore(size)
    for answer in given:
        store.add(answer)
        assert len(store) <= size
    cut = [answer[-(size // 2 - 1) :] for answer in given if answer]
    held = kept(store)
    assert held == cut[len(cut) - len(held) :]
    newest = 0
    for answer in reversed(cut):
        newest += len(answer) + 1
        if newest > size // 2:
            break
    assert len(store) >= min(newest, size // 2) - max(map(len, cut), default=0) - 1


def test_a_tiny_store_holds_nothing():
    store = AnswerStore(3)
    store.add([1, 2, 3])
    assert len(store) == 0


@quick
@given(answers, st.lists(st.integers(1, 3), min_size=1, max_size=30))
def test_the_longest_match_in_any_answer(given, text):
    store = AnswerStore(10_000)
    for answer in given:
        store.add(answer)
    reader = store.reader()
    for start in range(len(text)):
        reader.read(text[: start + 1], start)
        match, ids = reader.find()
        seen = text[: start + 1]
        assert match.length == max((longest_within(seen, one) for one in given), default=0)
        if match.length:
            assert list(ids[match.end - match.length : match.end]) == seen[-match.length :]
        else:
            assert match == NO_MATCH


@quick
@given(answers, st.lists(st.integers(1, 3), min_size=12, max_size=40))
def test_answers_that_come_in_are_matched_as_if_they_had_been_there(given, text):
    store = AnswerStore(10_000)
    reader = store.reader()
    for start in range(len(text)):
        if given and start % 5 == 3:
            store.add(given[start % len(given)])
        reader.read(text[: start + 1], start)
        fresh = store.reader()
        fresh.read(text[: start + 1], 0)
        wanted = min(fresh.find()[0].length, REREAD)
        assert reader.find()[0].length >= wanted


def test_the_rest_of_an_answer_ends_with_it():
    store = AnswerStore(100)
    store.add(ids_of("abcdef"))
    store.add(ids_of("xyz"))
    reader = store.reader()
    reader.read(ids_of("abcd"), 0)
    match, ids = reader.find()
    assert rest_of_answer(ids, match, 99) == ids_of("ef")
    assert rest_of_answer(ids, match, 1) == ids_of("e")


def test_reading_costs_the_same_beside_a_large_store():
    work = []
    for size in (100, 50_000):
        store = AnswerStore(4 * size)
        for begin in range(0, size, 50):
            store.add([(begin + place) % 97 for place in range(50)])
        reader, text = store.reader(), [place % 97 for place in range(200)]
        work.append(lines_of(SuffixAutomaton, lambda r=reader, t=text: r.read(t, 0)))
    assert 0 < work[1] <= 1.5 * work[0]
