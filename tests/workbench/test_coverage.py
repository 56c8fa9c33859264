"""Intervals hold the truth, and verdicts are seldom wrong at the margin, on simulated pairs.

benchmarks/coverage.py goes through many more settings and commits what it finds.
"""

import numpy as np
import pytest

from benchmarks.coverage import (
    MARGIN,
    binary_rates,
    graded_rates,
    largest_size,
    speed_rate,
)

pytestmark = pytest.mark.slow

RUNS = 1000
LEAST = 0.93  # nominal less 2 points
# A rate of 5 % is seen above this in one of 1,000 simulations.
MOST_SEEN = 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / RUNS)


def assert_holds(rates, recovery):
    """Intervals hold the truth and, at the margin itself, verdicts are seldom wrong."""
    assert rates.holds_difference >= LEAST
    assert rates.holds_recovery >= LEAST
    if recovery == MARGIN:
        assert rates.false_safe <= MOST_SEEN
        assert rates.false_not_safe <= MOST_SEEN


@pytest.mark.parametrize(
    ("items", "target", "discordant", "recovery"),
    [
        (50, 0.9, 0.06, MARGIN),
        (50, 0.97, 0.02, 1.0),
        (200, 0.5, 0.15, MARGIN),
        (200, 0.97, 0.03, 0.99),
        (750, 0.9, 0.03, MARGIN),
        (750, 0.9, 0.01, 1.0),
        (750, 0.9, 0.15, 1.0),
    ],
)
def test_scores_of_0_and_1(items, target, discordant, recovery):
    rates = binary_rates(items, target, discordant, recovery, RUNS)
    assert_holds(rates, recovery)


@pytest.mark.parametrize("ratio", [MARGIN, 1 / MARGIN])
@pytest.mark.parametrize("num_either", [20, 88, 99, 120])
def test_the_exact_test_is_never_wrong_too_often(num_either, ratio):
    """By enumeration; a score test would be, in 7 % of cases with 88 items."""
    assert largest_size(num_either, ratio) <= 0.05


@pytest.mark.parametrize(
    ("kind", "documents", "discordant", "recovery"),
    [
        ("lost whole", 120, 0.10, MARGIN),
        ("lost in part", 120, 0.02, MARGIN),
        ("repeats", 120, 0.10, MARGIN),
        ("lost in part", 50, 0.10, 1.0),
    ],
)
def test_graded_scores(kind, documents, discordant, recovery):
    rates = graded_rates(kind, documents, discordant, recovery, RUNS)
    assert_holds(rates, recovery)


@pytest.mark.parametrize("blocks", [5, 8])
def test_speeds_over_few_blocks(blocks):
    assert speed_rate(blocks, 0.1, RUNS) >= LEAST
