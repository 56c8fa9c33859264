"""What rows hold already is copied, and a copy never comes before what it copies."""

import random

import pytest

from fly.engine.model.prefixes import MIN_SHARED, Span, chunks, common_prefix, plan_prefill

SHOTS = list(range(100, 100 + MIN_SHARED))


def test_common_prefix_equals_counting():
    fate = random.Random(0)
    for _ in range(300):
        one, other = ([fate.randrange(2) for _ in range(fate.randrange(12))] for _ in range(2))
        count = 0
        while count < min(len(one), len(other)) and one[count] == other[count]:
            count += 1
        assert common_prefix(one, other) == count


def test_the_first_of_a_group_is_computed_and_the_others_copy():
    prompts = [[*SHOTS, 1, 2, 3], [*SHOTS, 4, 5], [7, 8, 9], [*SHOTS, 6]]
    n = len(SHOTS)
    assert plan_prefill([], prompts, 0) == [
        [Span(0, 0, 0, prompts[0]), Span(2, 2, 0, prompts[2])],
        [Span(1, 0, n, [4, 5]), Span(3, 0, n, [6])],
    ]


def test_a_live_row_is_copied_at_once():
    held = [[*SHOTS, 1], [5, 6], [*SHOTS, 8, 8]]
    [wave] = plan_prefill(held, [[*SHOTS, 3]], 2)
    assert wave == [Span(2, 2, len(SHOTS), [3])], "what the row itself still holds needs no copy"
    [wave] = plan_prefill(held[:2], [[*SHOTS, 3]], 2)
    assert wave == [Span(2, 0, len(SHOTS), [3])]


def test_short_beginnings_are_computed_again():
    prompt = [*SHOTS[:-1], 3]
    assert plan_prefill([[*SHOTS]], [prompt], 1) == [[Span(1, 1, 0, prompt)]]


def test_a_system_prompt_and_examples_behind_it():
    first, second = [[*SHOTS, *[shot] * MIN_SHARED] for shot in (1, 2)]
    prompts = [[*first, 5], [*first, 6], [*second, 5], [*second, 6]]
    waves = plan_prefill([], prompts, 0)
    assert [[(span.row, span.source, span.start) for span in wave] for wave in waves] == [
        [(0, 0, 0)],
        [(1, 0, len(first)), (2, 0, len(SHOTS))],
        [(3, 2, len(second))],
    ]


def test_the_same_prompt_again_needs_nothing():
    waves = plan_prefill([[*SHOTS]], [[*SHOTS], [*SHOTS]], 0)
    assert waves[0][0] == Span(0, 0, len(SHOTS), [])
    assert [span.ids for wave in waves for span in wave] == [[], []]


def test_empty_prompts():
    assert plan_prefill([], [[]], 0) == [[Span(0, 0, 0, [])]]
    assert plan_prefill([], [], 0) == []


def test_following_a_plan_gives_every_row_its_prompt():
    fate = random.Random(1)
    for _ in range(200):
        texts = [SHOTS * 2, [*SHOTS, *[9] * 60], [3] * 90]

        def prompt(texts=texts):
            text = fate.choice(texts)
            return [*text[: fate.randrange(len(text))], *[fate.randrange(4)] * fate.randrange(5)]

        held = [prompt() for _ in range(fate.randrange(5))]
        first = fate.randint(0, len(held))
        prompts = [prompt() for _ in range(fate.randrange(6))]
        slots = [list(ids) for ids in held] + [[] for _ in prompts]
        for wave in plan_prefill(held, prompts, first):
            for span in wave:
                slots[span.row] = [*slots[span.source][: span.start], *span.ids]
        assert slots[first : first + len(prompts)] == prompts
        assert slots[:first] == held[:first], "live rows are not touched"


@pytest.mark.parametrize(
    ("lengths", "limits", "want"),
    [
        ([4, 4, 4], (100,), [[0, 1, 2]]),
        ([4, 4, 4], (8,), [[0, 1], [2]]),
        ([9, 1, 1], (8,), [[0], [1, 2]]),
        ([1, 1, 9], (8,), [[0, 1], [2]]),
        ([1, 0, 1], (8,), [[0], [2]]),
        ([], (8,), []),
        ([200, 100, 72], (4096,), [[0, 1, 2]]),
        ([200, 100, 72], (4096, 128), [[0, 1], [2]]),
        ([129, 1, 200], (4096, 128), [[0, 1], [2]]),
    ],
)
def test_chunks(lengths, limits, want):
    spans = [Span(row, row, 0, [5] * n) for row, n in enumerate(lengths)]
    assert [[span.row for span in chunk] for chunk in chunks(spans, *limits)] == want
