"""What rounds take is learned from noisy ones, of several sizes of batch."""

import random

import pytest

from fly.drafting.adaptive.round_times import MOST_OUTLIERS, WARM_UP, RoundTimes


def learned(lengths, seconds, num_rows=1, seed=0):
    """Times after rounds of these lengths; `seconds` takes length and rng."""
    rng = random.Random(seed)
    times = RoundTimes()
    for length in [0] * 10 + list(lengths):
        times.note(num_rows, length, seconds(length, rng))
    return times


def noisy(length, rng):
    return (5 + 2 * length) * rng.uniform(0.9, 1.1)


def test_a_line_through_noisy_rounds():
    rng = random.Random(1)
    times = learned([rng.randint(1, 20) for _ in range(400)], noisy)
    assert times.speculative(1, [10])[0] == pytest.approx(25, rel=0.05)
    assert times.step(1) == pytest.approx(2, rel=0.15)


def test_a_machine_that_slows_down_does_not_make_further_tokens_dearer():
    """The lengths drift with it: short proposals while it was fast, long ones while it was slow."""
    rng = random.Random(2)
    times = learned([], noisy)
    for turn in range(300):
        speed = 1 + turn / 300
        length = rng.randint(1, 8) + turn // 25
        times.note(1, length, speed * noisy(length, rng))
    assert times.step(1) == pytest.approx(2 * 1.75, rel=0.2)


def test_of_lengths_all_alike_plain_rounds_tell_the_slope():
    times = learned([10] * 50, noisy)
    assert times.speculative(1, [10])[0] == pytest.approx(25, rel=0.05)
    assert times.step(1) == pytest.approx(2, rel=0.1)


def test_drafting_is_measured_apart():
    """Of the 20 seconds that 10 tokens take, 12 are drafting: no noise of the others touches it."""
    times = learned([], noisy)
    for _ in range(50):
        times.note(1, 10, 25.0, drafting=12.0)
    assert times.step(1) == pytest.approx(1.2 + 0.8, rel=0.1)


def test_where_no_plain_round_was_measured_a_token_is_as_dear_as_at_another_size():
    times = learned([0] * 9 + [10] * 20, lambda length, rng: 5.0 + length)
    for _ in range(20):
        times.note(4, 10, 60.0, drafting=10.0)
    assert times.compared(4) == 1
    assert times.step(4) == pytest.approx(1.0 + 4 * 1.0)


def test_the_first_rounds_are_left_out():
    times = RoundTimes()
    for _ in range(WARM_UP):
        times.note(1, 0, 100.0)
    assert not times.knows_plain(1)
    times.note(1, 0, 1.0)
    assert times.plain(1) == 1.0
    assert times.knows_plain(1)
    assert not times.knows_plain(2)


def test_what_was_measured_in_a_slow_spell_is_forgotten():
    """Such a round says more than all those that took many times as long."""
    times = learned([10] * 5, lambda length, rng: 25.0 if length == 0 else 500.0)
    assert times.speculative(1, [10])[0] == pytest.approx(500)
    times.note(1, 10, 50.0)
    assert times.speculative(1, [10])[0] == pytest.approx(50)


def test_single_outliers_are_left_out_and_a_change_is_not():
    times = learned([0] * 50, lambda length, rng: 1.0)
    times.note(1, 0, 50.0)
    assert times.plain(1) == 1.0
    times.note(1, 0, 1.0)
    for _ in range(MOST_OUTLIERS + 300):
        times.note(1, 0, 50.0)
    assert times.plain(1) > 45


def test_slower_rounds_are_forgotten():
    times = RoundTimes()
    for seconds in [2.0] * 300 + [1.0] * 600:
        times.note(4, 0, seconds)
    assert times.plain(4) == pytest.approx(1.0, rel=0.02)


def test_another_size_of_batch_stands_in():
    times = RoundTimes()
    for _ in range(WARM_UP + 1):
        times.note(32, 0, 8.0)
        times.note(1, 10, 3.0)
    assert times.plain(1) == 8.0
    assert times.speculative(32, [10])[0] == 3.0
    assert times.compared(32) == 32, "no size has both"
    for _ in range(WARM_UP + 1):
        times.note(2, 0, 1.0)
        times.note(2, 10, 2.0)
    assert times.compared(32) == times.compared(1) == 2
    assert times.compared(3) == 3


def test_nothing_known_is_hopeful():
    times = learned([0] * 5, lambda length, rng: 2.0)
    assert times.speculative(1, [1, 20]) == [2.0, 2.0]
    assert times.step(1) == 0.0
