"""Who goes on, who is on the frontier, who is recommended; whatever the numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fly.workbench.sweeps.halving import (
    Standing,
    dominates,
    frontier,
    ranks,
    recommend,
    rungs,
    stops,
)

MARGIN = 0.97
BOUNDS = st.none() | st.floats(0, 1.5)
SPEEDS = st.floats(0.2, 5)


@st.composite
def standings(draw, least=1):
    """Points with ordered bounds; some are references, some cannot be told."""
    found = []
    for index in range(draw(st.integers(least, 12))):
        lower, recovery, upper = sorted(draw(st.tuples(*[st.floats(0.8, 1.1)] * 3)))
        is_known = draw(st.booleans()) or draw(st.booleans())
        bounds = (lower, upper) if is_known else (None, None)
        found.append(
            Standing(
                str(index),
                draw(SPEEDS),
                recovery if is_known else None,
                *bounds,
                is_reference=draw(st.integers(0, 4)) == 0,
            )
        )
    return found


@given(standings())
def test_somebody_goes_on_and_references_always(points):
    reasons = stops(points, MARGIN)
    left = [point for point in points if point.name not in reasons]
    assert left
    assert all(point.name not in reasons for point in points if point.is_reference)
    assert set(reasons) < {point.name for point in points}
    assert all(reasons.values())


@given(standings())
def test_at_most_half_of_those_tried_go_on(points):
    tried = [point for point in points if not point.is_reference]
    left = [point for point in tried if point.name not in stops(points, MARGIN)]
    assert len(left) <= math.ceil(len(tried) / 2)


@given(standings())
def test_what_would_be_recommended_goes_on(points):
    """The fastest point that is known to be safe is never lost."""
    best = recommend(points, MARGIN, lambda _: None).name
    if best is not None:
        speed = next(point.speedup for point in points if point.name == best)
        left = [point for point in points if point.name not in stops(points, MARGIN)]
        assert any(point.clears(MARGIN) and point.speedup == speed for point in left)


@given(standings(), st.floats(0.8, 1.1), st.floats(0.8, 1.1))
def test_a_stricter_margin_calls_more_points_unsafe(points, one, other):
    low, high = sorted((one, other))

    def unsafe(margin):
        told = stops(points, margin).items()
        return {name for name, reason in told if reason.startswith("not safe")}

    # The last point may be spared at either margin.
    assert len(unsafe(low) - unsafe(high)) <= 1


@given(standings())
def test_speeds_in_another_unit_change_nothing(points):
    doubled = [Standing(**{**vars(point), "speedup": 2 * point.speedup}) for point in points]
    assert set(stops(points, MARGIN)) == set(stops(doubled, MARGIN))
    assert frontier(points) == frontier(doubled)


@given(standings())
def test_the_frontier_is_what_nobody_beats(points):
    pairs = {p.name: (p.speedup, p.recovery) for p in points if p.recovery is not None}
    front = frontier(points)
    for name, pair in pairs.items():
        is_beaten = any(dominates(other, pair) for other in pairs.values())
        assert (name in front) is not is_beaten
    speeds = [pairs[name][0] for name in front]
    assert speeds == sorted(speeds, reverse=True)
    recoveries = [pairs[name][1] for name in front]
    assert recoveries == sorted(recoveries)
    assert bool(front) is bool(pairs)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_a_rank_is_beaten_by_the_rank_before(pairs):
    found = ranks(pairs)
    for pair, rank in zip(pairs, found, strict=True):
        better = [r for other, r in zip(pairs, found, strict=True) if dominates(other, pair)]
        assert rank == max(better, default=-1) + 1


@given(standings())
def test_recommended_is_the_fastest_that_is_safe(points):
    found = recommend(points, MARGIN, lambda _: 100)
    safe = [point for point in points if point.clears(MARGIN)]
    if safe:
        assert found.items_needed is None
        chosen = next(point for point in points if point.name == found.name)
        assert chosen.speedup == max(point.speedup for point in safe)
    else:
        assert (found.name, found.items_needed) == (None, 100)
        assert "needs about 100 items" in found.conclusion


@given(st.integers(1, 2000))
def test_rungs_grow_to_all_items(num_items):
    found = rungs(num_items)
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] == num_items
    assert len(found) <= 3


def test_rungs_of_a_hundred():
    assert rungs(100) == [25, 50, 100]
    assert rungs(1) == [1]
    assert rungs(0) == []


def point(name, speedup, lower, upper, **more):
    middle = None if lower is None or upper is None else (lower + upper) / 2
    return Standing(name, speedup, middle, lower, upper, **more)


NATIVE = point("native", 1.3, 1.0, 1.0, is_reference=True)

STOPS = {  # points -> how the reason of each stopped one begins
    "not safe": (
        [NATIVE, point("a", 3, 0.8, 0.9), point("b", 2, 0.9, 1.0)],
        {"a": "not safe: the upper bound of its recovery, 0.9000, is below the margin of 0.97"},
    ),
    "slower than a safe one": (
        [NATIVE, point("a", 2.0, 0.98, 1.0), point("b", 1.5, 0.9, 1.0)],
        {"b": "slower: 1.500x, while a is safe at 2.000x"},
    ),
    "slower than the reference": (
        [NATIVE, point("a", 2.0, 0.9, 1.0), point("b", 1.2, 0.98, 1.0)],
        {"b": "slower: 1.200x, while native is safe at 1.300x"},
    ),
    "the better half": (
        [
            NATIVE,
            *(
                point(n, s, 0.9, u)
                for n, s, u in zip("abcd", (2, 3, 2, 1.9), (1, 1.01, 0.99, 1), strict=True)
            ),
        ],
        {"c": "not in the better half: 2 of 4", "d": "not in the better half: 2 of 4"},
    ),
    "the likeliest is kept though others are faster": (
        [NATIVE, point("a", 4, 0.80, 0.98), point("b", 3, 0.81, 0.99), point("c", 2, 0.90, 1.0)],
        {"b": "not in the better half: 2 of 3"},
    ),
    "nobody knows": (
        [NATIVE, point("a", 2, None, None), point("b", 3, None, None)],
        {"a": "not in the better half"},
    ),
    "the last one": ([point("a", 2, 0.5, 0.6)], {}),
    "the least bad of all": (
        [point("a", 2, 0.5, 0.6), point("b", 1, 0.5, 0.7)],
        {"a": "not safe"},
    ),
}


@pytest.mark.parametrize(("points", "want"), STOPS.values(), ids=STOPS)
def test_stops_for_a_reason(points, want):
    found = stops(points, MARGIN)
    assert found.keys() == want.keys()
    assert all(found[name].startswith(reason) for name, reason in want.items())


def test_nobody_is_nobody():
    assert stops([], MARGIN) == {}
    assert frontier([]) == []
    assert "no setting" in recommend([], MARGIN, lambda _: 5).conclusion


def test_recommendation_in_words():
    points = [NATIVE, point("a", 2.0, 0.975, 1.0), point("b", 3.0, 0.9, 1.0)]
    found = recommend(points, MARGIN, lambda _: 7)
    assert found.name == "a"
    assert found.conclusion == (
        "a is the fastest setting whose recovery is at least 0.97 (lower bound 0.9750), at 2.000x"
    )
    needed = {"b": 400, "c": 90, "d": None}
    some = [point(name, 2.0, 0.9, 1.0) for name in needed]
    found = recommend(some, MARGIN, lambda one: needed[one.name])
    assert (found.name, found.items_needed) == (None, 90)
    assert "needs about 90 items (for c)" in found.conclusion
    found = recommend(some, MARGIN, lambda _: None)
    assert (found.name, found.items_needed) == (None, None)
    assert found.conclusion.startswith("no setting tried has a recovery of at least 0.97")
