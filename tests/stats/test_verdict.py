"""Verdicts: both sides of the margin, how many items it takes, several at once."""

import numpy as np
import pytest
from scipy import stats

from fly.stats import exact
from fly.stats.binary import PairCounts
from fly.stats.judged import items_to_decide
from fly.stats.margins import Points, Share
from fly.stats.paired import compare_scores
from fly.stats.verdict import holm, judge_all
from tests.crossing import mostly_slow


def scores(both=0, lost=0, gained=0, neither=0, **options):
    """0/1 scores of items that differ."""
    target = [1] * (both + lost) + [0] * (gained + neither)
    method = [1] * both + [0] * lost + [1] * gained + [0] * neither
    return compare_scores(target, method, range(len(target)), **options)


CASES = {  # both, lost, gained, neither: the verdict at 0.97
    "as good": ((670, 10, 10, 60), "SAFE"),
    "nothing differs, enough items": ((99, 0, 0, 1), "SAFE"),
    "nothing differs, too few": ((98, 0, 0, 2), "INCONCLUSIVE"),
    "worse": ((600, 80, 10, 60), "NOT SAFE"),
    "nothing left": ((0, 90, 0, 10), "NOT SAFE"),
    "on the margin": ((970, 30, 0, 0), "INCONCLUSIVE"),
    "nobody solves any": ((0, 0, 0, 50), "INCONCLUSIVE"),
    "one item": ((1, 0, 0, 0), "INCONCLUSIVE"),
}


@pytest.mark.parametrize(("cells", "verdict"), CASES.values(), ids=CASES)
def test_verdicts(cells, verdict):
    [judged] = judge_all([scores(*cells)])
    assert judged.verdict == verdict
    if judged.items_needed is not None:
        assert judged.verdict == "INCONCLUSIVE"
        assert judged.items_needed > sum(cells)


def test_no_loss_is_a_binomial():
    """With m solved and none lost, p is the chance that a share of 3 % shows none in m."""
    table = PairCounts(80, lost=0, gained=0, neither=9)
    assert exact.p_ratio_at_most(table, 0.97) == pytest.approx(0.97**80, abs=1e-5)


def chance_of_safe(num_either, ratio, lost, gained):
    """Of the rejection region at 5 %, summed over all outcomes, one by one."""
    total = 0.0
    for x in range(num_either + 1):
        for y in range(num_either - x + 1):
            p = stats.multinomial.pmf(
                [x, y, num_either - x - y], num_either, [lost, gained, 1 - lost - gained]
            )
            if p > 1e-7 and exact.p_at_most(x, y, exact.of_ratio(num_either, ratio)) < 0.05:
                total += p
    return total


@pytest.mark.parametrize(("num_either", "ratio"), [(25, 0.8), (25, 1.25), (40, 0.9)])
@pytest.mark.parametrize("place", mostly_slow([0.1, 0.0, 0.5]))
def test_size_by_enumeration(num_either, ratio, place):
    """On the boundary, wherever the unknown share lies, SAFE is said in 5 % of cases at most."""
    low, high = max(0.0, 1 - ratio), 1 / (1 + ratio)
    lost = low + place * (high - low)
    gained = max(0.0, 1 - (1 - lost) / ratio)
    assert chance_of_safe(num_either, ratio, lost, gained) <= 0.05


@pytest.mark.parametrize("cells", [(90, 2, 1, 7), (300, 4, 9, 40), (50, 0, 3, 2), (30, 9, 1, 9)])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_bounds_clear_just_the_margins_that_are_rejected(cells, higher_is_better):
    one = scores(*cells, higher_is_better=higher_is_better)
    low, high = one.lower_ratio(), one.upper_ratio()
    for step in (0.9, 0.99, 0.999, 1.001, 1.01, 1.1):
        assert (one.p_ratio_at_most(low * step) < 0.05) == (step < 1)
        assert (one.p_ratio_at_least(high * step) < 0.05) == (step > 1)


def test_graded_bounds_clear_just_the_margins_that_are_rejected():
    rng = np.random.default_rng(3)
    own = rng.beta(4, 2, size=150)
    one = compare_scores(own, own * rng.choice([1, 0.8, 1.1], size=150), range(150))
    low, high = one.lower_ratio(), one.upper_ratio()
    for step in (0.95, 0.99, 1.01, 1.05):
        assert (one.p_ratio_at_most(low * step) < 0.05) == (step < 1)
        assert (one.p_ratio_at_least(high * step) < 0.05) == (step > 1)


@pytest.mark.parametrize(("share", "items"), [(0.02, 1527), (0.10, 7633)])
def test_99_percent_of_a_90_percent_baseline(share, items):
    """As published: 1,500 to 7,600 items."""
    assert items_to_decide(share, 0.01 * 0.9) == items
    half = int(share * 500)
    one = scores(900 - half, half, half, 100 - half)
    assert Share(0.99).items_needed(one) == items
    assert Share(0.99).loss(one) == pytest.approx(0.009)


def test_items_needed_give_the_power():
    """With as many items, a method that loses nothing is SAFE about four times in five."""
    share, mean = 0.06, 0.9
    items = items_to_decide(share, 0.03 * mean)
    rng = np.random.default_rng(1)
    cells = [mean - share / 2, share / 2, share / 2, 1 - mean - share / 2]
    tables = rng.multinomial(items, cells, size=400)
    safe = [exact.p_ratio_at_most(PairCounts(*map(int, row)), 0.97) < 0.05 for row in tables]
    assert 0.7 <= np.mean(safe) <= 0.9


def test_explanations():
    [few] = judge_all([scores(132, 3, 3, 12)])
    assert few.items_needed == 340
    assert "97.0 %, which allows to lose 2.7 points" in few.explanation
    assert "cannot support this margin" in few.explanation
    assert "(4.0 % of items), about 340 would show SAFE" in few.explanation
    [loss] = judge_all([scores(850, 50, 15, 85)])
    assert loss.verdict == "INCONCLUSIVE"
    assert "would show NOT SAFE" in loss.explanation
    [none] = judge_all([scores(0, 0, 0, 9)])
    assert none.explanation.startswith("No recovery can be told: no item was solved by either. ")
    assert "--margin_points" in none.explanation
    assert none.items_needed is None


def test_lower_is_better():
    """Twice the errors is half the quality; what differs stays method minus target."""
    errors = scores(100, 0, 100, 800, higher_is_better=False)
    paired = errors.to_paired()
    assert (paired.gained, paired.lost) == (0, 100)
    assert paired.recovery.estimate == 0.5
    assert paired.difference.estimate == pytest.approx(0.1)
    assert judge_all([errors])[0].verdict == "NOT SAFE"
    graded = compare_scores(
        [2.0] * 50 + [3.0] * 50, [1.0, 1.1] * 50, range(100), higher_is_better=False
    )
    assert judge_all([graded])[0].verdict == "SAFE"
    assert graded.to_paired().gained == 100


def test_repeated_documents_are_clustered():
    """Ones and zeros of which several share a document are no independent pairs."""
    target, method = [1, 1, 0, 1] * 30, [1, 0, 0, 1] * 30
    apart = compare_scores(target, method, range(120))
    together = compare_scores(target, method, [place // 4 for place in range(120)])
    assert apart.counts is not None
    assert together.counts is None
    assert apart.to_paired().mcnemar_p < 1e-6
    assert together.to_paired().mcnemar_p is None
    assert (together.gained, together.lost) == (apart.gained, apart.lost) == (0, 30)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    alone = scores(129, 0, 0, 1)
    assert judge_all([alone])[0].verdict == "SAFE"
    many = judge_all([alone] * 8)
    assert {one.verdict for one in many} == {"INCONCLUSIVE"}


@pytest.mark.parametrize(
    ("target", "method", "clusters"),
    [([], [], []), ([1], [1, 0], [0]), ([1], [float("nan")], [0]), ([1, 0], [1, 0], [0])],
)
def test_scores_that_cannot_be_paired(target, method, clusters):
    with pytest.raises(ValueError, match=r"paired|finite"):
        compare_scores(target, method, clusters)


@pytest.mark.parametrize("margin", [0, 1, 1.5, -0.2])
def test_margins_out_of_range(margin):
    with pytest.raises(ValueError, match="margin"):
        Share(margin)


@pytest.mark.parametrize("points", [0, -1, float("inf"), float("nan")])
def test_points_out_of_range(points):
    with pytest.raises(ValueError, match="points"):
        Points(points)
