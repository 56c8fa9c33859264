"""Speeds from counted rounds: by hand, against real sums, and their intervals."""

import numpy as np
import pytest

from fly.engine import Statistics
from fly.errors import ConfigError
from fly.workbench.costs import PriceTable, each_once


def decoded(rounds, seconds, *, prompt=10, prefill=0.5, emitted=20, plain=0):
    return Statistics(
        requests=1,
        prompt_tokens=prompt,
        rounds=rounds,
        plain=plain,
        emitted=emitted,
        seconds_prefill=prefill,
        seconds_draft=seconds / 2,
        seconds_target=seconds / 4,
        seconds_acceptance=seconds / 8,
        seconds_rest=seconds / 8,
    )


# A round of K = 4 costs 0.2 s, one of K = 8 costs 0.4 s, a plain one 0.1 s.
COSTS = PriceTable.calibrate(
    [decoded(0, 2.0, plain=20)] * 3,
    {"model": {8: [decoded(5, 2.0)] * 2, 4: [decoded(5, 1.0), decoded(10, 2.0)]}},
)


@pytest.mark.parametrize(("k", "seconds"), [(4, 0.2), (5, 0.25), (6, 0.3), (8, 0.4)])
def test_a_round_costs_what_was_measured_or_lies_between(k, seconds):
    assert COSTS.price("model", k, each_once).per_round == pytest.approx(seconds)


@pytest.mark.parametrize(("drafter", "k"), [("model", 3), ("model", 9), ("ngram", 4)])
def test_what_was_not_measured_is_told(drafter, k):
    with pytest.raises(ConfigError, match=f"drafter '{drafter}' at spd_k {k} was not measured"):
        COSTS.price(drafter, k, each_once)


def test_tokens_per_second_are_rounds_and_prefill():
    counts = np.array([[10.0, 40.0, 30.0]])
    # 10 rounds of 0.2 s, and 40 prompt tokens of 0.05 s
    assert COSTS.price("model", 4, each_once).rate(counts) == pytest.approx(30 / (2 + 2))


def test_equal_items_have_an_interval_without_width():
    point = [decoded(5, 0.0)] * 6
    target = [decoded(0, 0.0, plain=20)] * 6
    found = COSTS.speedup("model", 4, point, target)
    want = (20 / (1 + 0.5)) / (20 / (2 + 0.5))
    assert found.estimate == pytest.approx(want)
    assert (found.low, found.high) == pytest.approx((want, want))
    assert "per round" in found.method


def test_measured_decodes_are_reproduced():
    """The items that were measured get their own wall time back, in sum."""
    rng = np.random.default_rng(1)
    point = [
        decoded(int(n), float(n * s), prompt=int(5 * n), prefill=0.01 * n, emitted=int(3 * n))
        for n, s in zip(rng.integers(3, 20, 30), rng.uniform(0.1, 0.3, 30), strict=True)
    ]
    target = [decoded(0, 0.09 * p.emitted, plain=p.emitted, emitted=p.emitted) for p in point]
    costs = PriceTable.calibrate(target, {"model": {5: point}})
    found = costs.speedup("model", 5, point, target, seed=3)
    assert found.estimate == pytest.approx(
        sum(t.seconds for t in target) / sum(p.seconds for p in point)
    )
    assert found.low < found.estimate < found.high
    assert found == costs.speedup("model", 5, point, target, seed=3)
    assert found != costs.speedup("model", 5, point, target, seed=4)


def test_items_of_one_document_are_drawn_together():
    """Pairs that vary only between documents: more items of each tell nothing more."""
    rng = np.random.default_rng(2)
    rounds = rng.integers(3, 20, 12).tolist()
    point, target = (
        [decoded(n, 0.0) for n in rounds],
        [decoded(0, 0.0, plain=20) for _ in rounds],
    )
    documents = list(range(12)) * 9
    once = COSTS.speedup("model", 4, point, target)
    nine = COSTS.speedup("model", 4, point * 9, target * 9, documents)
    loose = COSTS.speedup("model", 4, point * 9, target * 9)
    assert nine.estimate == pytest.approx(once.estimate)
    assert (nine.low, nine.high) == pytest.approx((once.low, once.high))
    assert loose.high - loose.low < (once.high - once.low) / 2


def test_intervals_cover_the_truth():
    """Of 200 samples about 95 % hold the ratio of the whole population."""
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        rounds = rng.integers(2, 12, 40)  # mean 6.5
        point = [decoded(int(n), 0.0, prefill=0.0) for n in rounds]
        target = [decoded(0, 0.0, plain=20)] * 40
        found = COSTS.speedup("model", 4, point, target, seed=trial, num_resamples=400)
        covered += found.low <= 2.5 / (6.5 * 0.2 + 0.5) <= found.high
    assert covered >= 180


@pytest.mark.parametrize(("num_point", "num_target"), [(0, 0), (2, 3)])
def test_items_that_do_not_pair_are_refused(num_point, num_target):
    with pytest.raises(ValueError, match=f"{num_point} items of the point, {num_target} of"):
        COSTS.speedup("model", 4, [decoded(1, 1)] * num_point, [decoded(1, 1)] * num_target)


def test_answers_without_tokens_have_no_speed():
    nothing = [decoded(0, 0.0, emitted=0)]
    found = COSTS.speedup("model", 4, nothing, nothing)
    assert (found.estimate, found.low, found.high) == (None, None, None)


@pytest.mark.parametrize("items", [[], [decoded(0, 0.0)], [decoded(3, 0.0)]])
def test_nothing_measured_is_refused(items):
    with pytest.raises(ConfigError, match="no rounds were measured"):
        PriceTable.calibrate(items, {})
