"""The policies at their defaults, as shipped, on arms each a quarter faster than the next while one
round's gain spreads by more than half of itself.  Tuned on other seeds (1000 to 1199) than these.
"""

import math
import random
import statistics

import pytest

from fly.drafting.adaptive.bandit import ArmSettings, BanditSettings
from fly.drafting.adaptive.policies import EXPLORE, POLICIES, ArmSums, estimates, noise_of
from tests.drafting.rounds import World, accepting, mean_gain

TWO, FOUR = (0.7, 0.8), (0.5, 0.6, 0.7, 0.8)  # acceptance rates
STATIC_SEEDS, SWAP_SEEDS = range(40), range(20)
WINDOW = 50  # rounds of which an arm has more than half where the bandit follows it

both = pytest.mark.parametrize("policy", ["ucb1", "thompson"])
slow = pytest.mark.slow


@both
@pytest.mark.parametrize("num_rows", [1, pytest.param(8, marks=slow)])
@pytest.mark.parametrize(
    ("rates", "least"),
    [(TWO, 0.97), pytest.param(FOUR, 0.92, marks=slow)],
    ids=["two", "four"],
)
def test_ends_on_the_best_arm_and_loses_little_on_the_way(policy, rates, least, num_rows):
    right, shares = 0, []
    for seed in STATIC_SEEDS:
        world = World([accepting(rate) for rate in rates], seed, num_rows, policy=policy)
        tokens, seconds = world.play(2000)
        right += world.pulls[-200:].count(len(rates) - 1) > 100
        shares.append(tokens / seconds / (num_rows * mean_gain(rates[-1])))
    assert right >= 38
    assert statistics.mean(shares) >= least


def rounds_to_follow(policy, rates, then, num_rows, limit, seed):
    """Rounds behind a swap until the best arm has most of the last WINDOW; None: not in time."""
    world = World([accepting(rate) for rate in rates], seed, num_rows, policy=policy)
    world.play(500)
    world.laws = [accepting(rate) for rate in then]
    world.pulls.clear()
    world.play(limit)
    best = then.index(max(then))
    ends = range(WINDOW, limit + 1)
    return next((e for e in ends if 2 * world.pulls[e - WINDOW : e].count(best) > WINDOW), None)


@both
@pytest.mark.parametrize(("num_rows", "limit"), [(1, 400), pytest.param(8, 200, marks=slow)])
@pytest.mark.parametrize(
    ("rates", "then"),
    [(TWO, TWO[::-1]), pytest.param(FOUR, FOUR[::-1], marks=slow), (FOUR, (0.5, 0.6, 0.8, 0.7))],
    ids=["two", "four", "best of four"],
)
def test_follows_arms_that_swap(policy, rates, then, num_rows, limit):
    took = [rounds_to_follow(policy, rates, then, num_rows, limit, seed) for seed in SWAP_SEEDS]
    assert sum(found is not None for found in took) >= 18


def sums(*rounds):
    """An arm's, of undiscounted (tokens, seconds)."""
    arm = ArmSums()
    for tokens, seconds in rounds:
        arm.note(tokens, seconds)
    return arm


def test_noise_is_measured_over_all_arms():
    """Mean 3, deviations of 1 twice: 2/9; beside it two rounds of 0.5 squared, as if seen."""
    arms = [sums((2, 1.0), (4, 1.0))]
    assert noise_of(arms) == pytest.approx(math.sqrt((2 / 9 + 0.5) / (2 * (1 - 1 / 2) + 2)))
    arms += [sums((5, 2.0))]  # a single round does not spread
    assert noise_of(arms) == pytest.approx(math.sqrt((2 / 9 + 0.5) / 3))
    # Slow in proportion is no spread: the rates are what counts.
    assert noise_of([sums(*[(k, k / 2) for k in range(1, 40)])]) == pytest.approx(
        math.sqrt(0.5 / (38 + 2))
    )
    assert noise_of([sums((1, 1.0), (1, 1e6), (1, 1.0))]) == 1.0, "stalls are no uncertainty"


def test_an_arm_of_few_pulls_is_uncertain_by_the_best_rate():
    """Not by 1 % of its own rate, where a bad first round would keep it out for good."""
    best, slow = sums(*[(8, 1.0)] * 16), sums((1, 1.0))
    slow.forget(0.25)
    noise = noise_of([best, slow])
    assert estimates([best, slow]) == [(1.0, noise / 4), (0.125, 2 * noise)]


def test_unset_explore_is_the_policy_s_own():
    arms = [ArmSettings(drafter="none")]
    assert set(EXPLORE) == set(POLICIES)
    for policy, width in EXPLORE.items():
        assert BanditSettings(arms=arms, policy=policy).exploring == width
        assert BanditSettings(arms=arms, policy=policy, explore=0.2).exploring == 0.2
        assert str(width) in BanditSettings.model_fields["explore"].description


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("tokens", "seconds"), [(0, 1.0), (3, 0.0), (0, 0.0)], ids=["no tokens", "no time", "neither"]
)
def test_nothing_is_divided_by_rates_of_zero(policy, tokens, seconds):
    """An answer may end with what was known before; a coarse clock may stand still."""
    world = World([lambda turn, rng: (tokens, seconds)] * 3, policy=policy)
    world.play(300)
    assert min(map(world.pulls.count, range(3))) > 60, "none is better than the others"


@both
def test_old_rounds_do_not_keep_an_arm_out(policy):
    """Of an arm that nearly nothing is remembered of, anything may be true."""
    best, forgotten = sums(*[(4, 1.0), (5, 1.0)] * 50), sums((3, 1.0))
    forgotten.forget(1e-12)
    assert POLICIES[policy]([best, forgotten], EXPLORE[policy], random.Random(1)) == 1
