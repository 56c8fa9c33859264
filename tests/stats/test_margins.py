"""Margins in points: the exact test of a difference, verdicts, plans, and scores too low for a
share."""

import numpy as np
import pytest
from scipy import stats

from fly.stats import exact
from fly.stats.binary import PairCounts, difference_score
from fly.stats.margins import Points, Share
from fly.stats.paired import compare_scores
from fly.stats.verdict import judge_all
from tests.crossing import mostly_slow

RNG = np.random.default_rng(7)


def scores(both=0, lost=0, gained=0, neither=0, **options):
    """0/1 scores of items that differ."""
    target = [1] * (both + lost) + [0] * (gained + neither)
    method = [1] * both + [0] * lost + [1] * gained + [0] * neither
    return compare_scores(target, method, range(len(target)), **options)


# --- the exact test of a difference


def outcomes(num_items):
    """All numbers lost and gained."""
    lost, gained = np.meshgrid(*[np.arange(num_items + 1)] * 2, indexing="ij")
    fits = lost + gained <= num_items
    return lost[fits], gained[fits]


@pytest.mark.parametrize("difference", [-0.1, -0.02, 0.05])
@pytest.mark.parametrize("num_items", [12, 40])
def test_the_score_rises_with_every_item_gained_and_falls_with_every_one_lost(
    num_items, difference
):
    """What lets the boundary stand for all that lies short of it."""
    lost, gained = np.meshgrid(*[np.arange(num_items + 1)] * 2, indexing="ij")
    score = difference_score(lost, gained, num_items, difference)
    score[lost + gained > num_items] = np.nan
    assert np.nanmin(np.diff(score, axis=1)) > 0
    assert np.nanmax(np.diff(score, axis=0)) < 0


@pytest.mark.parametrize(
    ("lost", "gained", "num_items", "difference"),
    [(0, 0, 30, -0.1), (0, 2, 25, -0.05), (5, 2, 60, -0.15), (2, 6, 40, 0.05)],
)
def test_p_is_the_chance_of_such_a_score(lost, gained, num_items, difference):
    """Summed over all outcomes one by one, at every lost share of the interval."""
    boundary = exact.of_difference(num_items, difference)
    ours, theirs = outcomes(num_items)
    seen = float(difference_score(lost, gained, num_items, difference))
    reach = difference_score(ours, theirs, num_items, difference) >= seen - 1e-9
    tail = exact.OUTSIDE / 2
    low = stats.beta.ppf(tail, lost, num_items - lost + 1) if lost else 0.0
    high = min(stats.beta.isf(tail, lost + 1, num_items - lost), boundary.most)
    cells = np.stack([ours, theirs, num_items - ours - theirs], axis=1)[reach]
    chances = [
        stats.multinomial.pmf(cells, num_items, [q, q + difference, 1 - 2 * q - difference]).sum()
        for q in np.linspace(max(low, boundary.least), high, 300)[:-1]
    ]
    p = exact.p_at_most(lost, gained, boundary)
    assert p == pytest.approx(max(chances), rel=2e-3, abs=2e-6)


@pytest.mark.parametrize("difference", [-0.15, -0.05])
@pytest.mark.parametrize("place", mostly_slow([0.1, 0.0, 0.5]))
def test_size_by_enumeration(difference, place):
    """At the margin, wherever the unknown share lies, SAFE is said in 5 % of cases at most."""
    num_items = 30
    boundary = exact.of_difference(num_items, difference)
    lost = boundary.least + place * (boundary.most - boundary.least)
    shares = [lost, lost + difference, 1 - 2 * lost - difference]
    total = 0.0
    for x, y in zip(*outcomes(num_items), strict=True):
        p = stats.multinomial.pmf([x, y, num_items - x - y], num_items, shares)
        if p > 1e-7 and exact.p_at_most(int(x), int(y), boundary) < 0.05:
            total += p
    assert total <= 0.05


def test_size_by_simulation():
    """On items drawn at the margin."""
    runs, rejected = 400, 0
    for row in RNG.multinomial(150, [0.75, 0.05, 0.02, 0.18], size=runs):
        counts = PairCounts(*map(int, row))
        # A score below 1 is no reason to reject anything: spared.
        if difference_score(counts.lost, counts.gained, 150, -0.03) > 1:
            rejected += exact.p_difference_at_most(counts, -0.03) < 0.05
    assert 0 < rejected <= stats.binom.isf(0.001, runs, 0.05)


def test_the_fewest_items_that_show_no_loss():
    """Without a loss p is the chance of none: the margin's complement to the number of items."""
    assert exact.p_difference_at_most(PairCounts(3, 0, 0, 27), -0.1) == pytest.approx(0.9**30, 1e-3)
    for loss in (0.03, 0.1):
        needed = exact.items_needed(loss, 0.95)
        assert needed == pytest.approx(np.log(0.05) / np.log(1 - loss), abs=1)
        for count, is_safe in ((needed, True), (needed - 1, False)):
            p = exact.p_difference_at_most(PairCounts(0, 0, 0, count), -loss)
            assert (p < 0.05) == is_safe
    assert exact.items_needed(1.0, 0.95) == 1
    assert exact.solved_needed(0.97, 0.95) == 99
    assert 120 <= exact.solved_needed(0.97, 0.975) <= 126  # two verdicts


@pytest.mark.parametrize("cells", [(90, 2, 1, 7), (50, 0, 3, 2), (30, 9, 1, 9), (1, 0, 1, 10)])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_bounds_clear_just_the_margins_that_are_rejected(cells, higher_is_better):
    one = scores(*cells, higher_is_better=higher_is_better)
    low, high = one.lower_difference(), one.upper_difference()
    assert low < one.spread(1.0)[0] < high
    for step in (-0.01, -0.001, 0.001, 0.01):
        assert (one.p_difference_at_most(low + step) < 0.05) == (step < 0)
        assert (one.p_difference_at_least(high + step) < 0.05) == (step > 0)


def test_graded_bounds_clear_just_the_margins_that_are_rejected():
    own = RNG.beta(4, 2, size=150)
    one = compare_scores(own, own * RNG.choice([1, 0.8, 1.1], size=150), range(150))
    low, high = one.lower_difference(), one.upper_difference()
    for step in (-0.005, 0.005):
        assert (one.p_difference_at_most(low + step) < 0.05) == (step < 0)
        assert (one.p_difference_at_least(high + step) < 0.05) == (step > 0)


def test_graded_scores_without_a_difference():
    """No loss among m documents: a share of 1 - 0.05^(1/m) may still lose all."""
    own = [0.5] * 40
    data = compare_scores(own, own, range(40))
    assert data.p_difference_at_most(-0.03) == pytest.approx((1 - 0.03 / 0.5) ** 40, rel=1e-6)
    assert data.lower_difference() <= 0.5 * (0.05 ** (1 / 40) - 1)
    assert data.items_to_see(0.03, 0.95) == 49
    assert compare_scores([0.3, 0.3], [0.3, 0.3], "aa").p_difference_at_most(-0.1) == 1


# --- verdicts


CASES = {  # both, lost, gained, neither; points: the verdict
    "a score too low for a share": ((20, 2, 2, 376), 3, "SAFE"),
    "the target solves nothing": ((0, 0, 2, 198), 3, "SAFE"),
    "nobody solves any": ((0, 0, 0, 120), 3, "SAFE"),
    "too few items": ((0, 0, 0, 90), 3, "INCONCLUSIVE"),
    "worse": ((200, 60, 10, 130), 3, "NOT SAFE"),
    "at the margin": ((200, 20, 8, 172), 3, "INCONCLUSIVE"),
}


@pytest.mark.parametrize(("cells", "points", "verdict"), CASES.values(), ids=CASES)
def test_verdicts(cells, points, verdict):
    [judged] = judge_all([scores(*cells)], Points(points))
    assert judged.verdict == verdict
    if judged.items_needed is not None:
        assert judged.items_needed > sum(cells)


def test_explanations():
    [safe] = judge_all([scores(300, 1, 4, 195)], Points(3))
    assert safe.explanation.startswith("At most 0.")
    assert "lost: better than the margin of 3 points (0.03 of the score)." in safe.explanation
    [gain] = judge_all([scores(300, 0, 40, 160)], Points(3))
    assert gain.explanation.startswith("At least 6.")
    assert "are gained: better than" in gain.explanation
    [worse] = judge_all([scores(300, 80, 4, 116)], Points(3))
    assert worse.explanation.startswith("At least 12.")
    assert "are lost: worse than the margin of 3 points" in worse.explanation
    [few] = judge_all([scores(45, 1, 0, 4)], Points(3))
    assert "50 items with 2.0 points lost do not tell on which side" in few.explanation
    assert few.items_needed == 138
    assert "about 140 would show SAFE if nothing is truly lost" in few.explanation
    [trivial] = judge_all([scores(1, 0, 1, 10)], Points(10))
    assert "not below the target's own 8.3: what loses everything" in trivial.explanation


def test_lower_is_better():
    """More errors are a loss."""
    errors = scores(20, 0, 60, 320, higher_is_better=False)
    [judged] = judge_all([errors], Points(3))
    assert judged.verdict == "NOT SAFE"
    assert "points are lost" in judged.explanation
    assert (
        judge_all([scores(20, 60, 0, 320, higher_is_better=False)], Points(3))[0].verdict == "SAFE"
    )


def test_points_of_scores_up_to_100():
    """A point of BLEU is one."""
    own = np.full(200, 30.0)
    one = compare_scores(own, own - 0.5, range(200), point=1.0)
    [judged] = judge_all([one], Points(2))
    assert judged.verdict == "SAFE"
    assert "(2 of the score)" in judged.explanation


def test_holm():
    alone = scores(0, 0, 0, 110)
    assert judge_all([alone], Points(3))[0].verdict == "SAFE"
    assert {one.verdict for one in judge_all([alone] * 8, Points(3))} == {"INCONCLUSIVE"}


def test_items_needed_give_the_power():
    """With as many items, a method that loses nothing is SAFE about four times in five."""
    one = scores(50, 15, 15, 420)
    items = Points(3).items_needed(one)
    tables = RNG.multinomial(items, [0.1, 0.03, 0.03, 0.84], size=100)
    safe = [exact.p_difference_at_most(PairCounts(*map(int, row)), -0.03) < 0.05 for row in tables]
    assert 0.65 <= np.mean(safe) <= 0.92


# --- scores too low for a share


def test_a_target_that_solves_too_few():
    [judged] = judge_all([scores(1, 0, 1, 10)])
    assert judged.verdict == "INCONCLUSIVE"
    assert "The target solves 1 of 12 items" in judged.explanation
    assert "at least 99 solved ones (at this score about 1,200 items)" in judged.explanation
    assert "cannot support a relative margin" in judged.explanation
    assert "--margin_points" in judged.explanation
    assert "show SAFE" not in judged.explanation
    assert judged.items_needed == 1188


def test_the_fewest_solved_items_are_those_of_the_test():
    """One less and none lost is not SAFE; as many are."""
    for count, verdict in ((98, "INCONCLUSIVE"), (99, "SAFE")):
        [judged] = judge_all([scores(count, 0, 0, 1)])
        assert judged.verdict == verdict
        assert (Share(0.97).why_unsupported(scores(count, 0, 0, 1)) is None) == (count == 99)


def test_graded_scores_that_rest_on_few_documents():
    own = [1.0] + [0.0] * 200
    other = [1.0] + [0.01] * 200
    [judged] = judge_all([compare_scores(own, other, range(201))])
    assert "Scores are worth 1.0 solved ones among 201 items" in judged.explanation
    even = compare_scores([0.05] * 200, [0.05] * 200, range(200))
    assert Share(0.97).why_unsupported(even) is None


def test_a_target_that_solves_nothing_is_offered_points():
    [judged] = judge_all([scores(0, 0, 3, 9)])
    assert "--margin_points" in judged.explanation


@pytest.mark.parametrize("share", [0.9996, 0.9999])
def test_a_strict_share_that_a_task_cannot_support_is_told_in_points(share):
    """What it offers instead is above 0, however little that is."""
    [verdict] = judge_all([scores(48, 2, 0, 50)], Share(share))
    assert "cannot support" in verdict.explanation
