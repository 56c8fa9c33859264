"""The clustered bootstrap against scipy's, its tests against its bounds, data that say nothing."""

import numpy as np
import pytest
from scipy import stats

from fly.stats.bootstrap import bootstrap, redraw
from fly.stats.graded import cluster, difference_interval, ratio_interval
from fly.stats.speed import speed_ratio

RNG = np.random.default_rng(5)
OWN = RNG.beta(4, 2, size=120)
OTHER = np.clip(OWN * RNG.choice([1, 1, 1, 0.7, 1.1], size=120), 0, 1)


def means(sums):
    return sums[..., 1] / sums[..., 0]


@pytest.mark.parametrize("level", [0.025, 0.05, 0.5, 0.95])
def test_bounds_are_scipys(level):
    """At the level that Student's widening asks for; scipy draws its own resamples."""
    sums = np.stack([OWN, OTHER], axis=1)
    ours = bootstrap(sums, redraw(sums), means)
    z = stats.t.ppf(level, ours.degrees) * np.sqrt(120 / 119)
    confidence = 1 - 2 * stats.norm.cdf(-abs(z)) if level != 0.5 else 1e-9
    theirs = stats.bootstrap(
        (OWN, OTHER),
        lambda own, other, axis: other.sum(axis=axis) / own.sum(axis=axis),
        n_resamples=20_000,
        paired=True,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    spread = ours.replicates.std()
    want = theirs.low if level < 0.6 else theirs.high
    assert ours.bound(level) == pytest.approx(want, abs=0.08 * spread)


@pytest.mark.parametrize("level", [0.001, 0.025, 0.05, 0.2, 0.8, 0.95])
def test_p_is_the_level_of_its_bound(level):
    sums = np.stack([OWN, OTHER], axis=1)
    found = bootstrap(sums, redraw(sums), means)
    bound = found.bound(level)
    assert found.p_at_most(bound) == pytest.approx(level, rel=0.1, abs=2e-3)


def test_p_is_never_zero():
    sums = np.stack([OWN, OTHER], axis=1)
    found = bootstrap(sums, redraw(sums, resamples=999), means)
    assert found.p_at_most(0.1) == 1 / 1000


def test_same_seed_same_answer():
    sums = np.stack([OWN, OTHER], axis=1)
    assert np.array_equal(redraw(sums, resamples=50), redraw(sums, resamples=50))
    assert not np.array_equal(redraw(sums, resamples=50), redraw(sums, resamples=50, seed=1))


def test_many_clusters_in_chunks():
    """Means of all chunks stay the data's own."""
    sums = np.ones((30_000, 1)) * 2
    redrawn = redraw(sums, resamples=150)
    assert redrawn.shape == (150, 1)
    assert np.all(redrawn == 60_000)


def test_items_of_a_document_are_one():
    """Ten copies of each item say no more than one, apart from what they count as."""
    once = cluster(OWN, OTHER, range(120))
    copies = cluster(np.repeat(OWN, 10), np.repeat(OTHER, 10), np.repeat(range(120), 10).tolist())
    for interval in (difference_interval, ratio_interval):
        here, there = interval(once), interval(copies)
        assert (here.estimate, here.low, here.high) == pytest.approx(
            (there.estimate, there.low, there.high)
        )
    apart = cluster(np.repeat(OWN, 10), np.repeat(OTHER, 10), range(1200))
    width = ratio_interval(apart).high - ratio_interval(apart).low
    assert width < 0.6 * (ratio_interval(once).high - ratio_interval(once).low)


def test_exchanged_sides():
    data = cluster(OWN, OTHER, range(120))
    here, there = ratio_interval(data), ratio_interval(data.exchanged)
    assert here.low == pytest.approx(1 / there.high)
    here, there = difference_interval(data), difference_interval(data.exchanged)
    assert here.low == pytest.approx(-there.high)
    assert data.p_ratio_at_least(0.97) == data.exchanged.p_ratio_at_most(1 / 0.97)


def test_no_difference_is_not_certainty():
    """Zero of m seen: a share of 1 - 0.025^(1/m) may still be lost."""
    data = cluster([0.5] * 40, [0.5] * 40, range(40))
    ratio, difference = ratio_interval(data), difference_interval(data)
    assert ratio.estimate == 1
    assert ratio.low <= 0.025 ** (1 / 40)
    assert ratio.high == pytest.approx(1 / ratio.low)
    assert difference.low <= 0.5 * (0.025 ** (1 / 40) - 1)
    assert data.p_ratio_at_most(0.97) >= 0.97**40
    # One small loss among many is no reason for doubt either.
    nearly = cluster([0.5] * 400, [0.4] + [0.5] * 399, range(400))
    assert nearly.p_ratio_at_most(0.97) < 0.01
    many = cluster([0.5] * 400, [0.5] * 400, range(400))
    assert many.p_ratio_at_most(0.97) < 0.01
    assert many.p_ratio_at_least(0.97) > 0.9


@pytest.mark.parametrize(
    ("own", "other", "clusters", "estimate", "reason"),
    [
        ([0, 0, 0], [0, 1, 0], "abc", None, "mean score is zero"),
        ([0, 0, 0], [0, 0, 0], "abc", None, "mean score is zero"),
        ([1, -1, 0.5], [1, 0, 0], "abc", None, "below zero"),
        ([1, 0.5], [1, 0], "aa", 2 / 3, "one document"),
    ],
)
def test_where_nothing_can_be_told(own, other, clusters, estimate, reason):
    data = cluster(own, other, clusters)
    ratio, difference = ratio_interval(data), difference_interval(data)
    assert ratio.estimate == (estimate and pytest.approx(estimate))
    assert ratio.low is ratio.high is None
    assert reason in ratio.method
    assert data.p_ratio_at_most(0.97) == data.p_ratio_at_least(0.97) == 1
    assert data.lower_ratio(0.95) is None
    assert difference.estimate is not None


def test_everything_lost():
    data = cluster([1.0] * 9, [0.0] * 9, range(9))
    ratio = ratio_interval(data)
    assert (ratio.estimate, ratio.low, ratio.high) == (0, 0, None)
    assert data.p_ratio_at_most(0.97) == 1
    assert data.p_ratio_at_least(0.97) < 1e-9
    assert data.lower_ratio(0.95) == 0


def test_hardly_any_score_in_the_target():
    """Resamples without it divide by zero: no bound above, and no NaN."""
    data = cluster([1.0] + [0.0] * 9, [1.0, 1.0] + [0.0] * 8, range(10))
    ratio = ratio_interval(data)
    assert ratio.low <= ratio.estimate == 2
    assert ratio.high is None or ratio.high >= 2


BLOCKS = ([900, 1000, 1100, 950, 1050, 1000], [4.5, 5.1, 5.4, 4.8, 5.2, 5.0])
PLAIN = ([890, 1010, 1100, 940, 1040, 1010], [8.8, 10.3, 10.9, 9.5, 10.3, 10.2])


def test_speed_is_tokens_by_seconds():
    ratio = speed_ratio(*BLOCKS, *PLAIN)
    assert ratio.estimate == pytest.approx(6000 / 30.0 / (5990 / 60.0))
    assert ratio.low < ratio.estimate < ratio.high
    back = speed_ratio(*PLAIN, *BLOCKS)
    assert (1 / back.high, 1 / back.low) == pytest.approx((ratio.low, ratio.high), rel=2e-3)
    same = speed_ratio(*PLAIN, *PLAIN)
    assert (same.low, same.estimate, same.high) == pytest.approx((1, 1, 1))


def test_few_blocks_have_no_interval():
    ratio = speed_ratio(*(part[:4] for part in (*BLOCKS, *PLAIN)))
    assert ratio.low is ratio.high is None
    assert ratio.estimate > 1.9
    assert "4 timed block(s)" in ratio.method
    assert speed_ratio([], [], [], []).estimate is None
    assert speed_ratio([0] * 6, [1] * 6, *PLAIN).estimate is None


@pytest.mark.parametrize("seconds", [[1.0] * 5, [1.0] * 5 + [-1.0], [1.0] * 5 + [np.nan]])
def test_speed_refuses(seconds):
    with pytest.raises(ValueError, match=r"paired|finite"):
        speed_ratio(BLOCKS[0], seconds, *PLAIN)
