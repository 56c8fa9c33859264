"""Scores of all items at once: the paired bootstrap against the aggregations themselves, its tests
against its bounds, and how often it is wrong."""

import numpy as np
import pytest
from lm_eval.api import metrics as theirs
from scipy import stats

from fly.stats import corpus
from fly.stats.corpus import CorpusScores, Resampling, plan_resampling
from fly.stats.margins import Points, Share
from fly.stats.verdict import judge_all
from fly.workbench import metrics
from fly.workbench.metrics import evaluator

RNG = np.random.default_rng(3)
VOCABULARY = [f"w{n}" for n in range(60)]


def sentences(count, share=0.2, seed=0):
    """References, and texts of which a share of the words was replaced."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = list(rng.choice(VOCABULARY, size=12))
        text = [str(rng.choice(VOCABULARY)) if rng.random() < share else w for w in words]
        found.append((" ".join(words), " ".join(text)))
    return found


def ratio_of_sums(items):
    """What pooled F1 and its like come down to."""
    columns = np.array(items)
    return float(columns[:, 0].sum() / columns[:, 1].sum())


def compared(aggregation, target, method, *, resamples=300, **options):
    documents = [np.array([place]) for place in range(len(target))]
    resampling = Resampling(documents, resamples)
    return CorpusScores(
        num_items=len(target),
        target=resampling.values(evaluator(aggregation, target)),
        method=resampling.values(evaluator(aggregation, method)),
        resampling=resampling,
        **({"higher_is_better": True} | options),
    )


@pytest.mark.parametrize(
    "name", [name for name in ("bleu", "chrf", "chrfpp", "ter") if hasattr(theirs, name)]
)
def test_sums_over_sentences_give_sacrebleus_scores(name):
    aggregation, items = getattr(theirs, name), sentences(8)
    summed = metrics._sentence_sums(aggregation, items)
    assert summed is not None
    for places in ([0, 1, 2, 3, 4, 5, 6, 7], [3, 3, 3, 0], [5]):
        again = aggregation([items[place] for place in places])
        assert summed(np.array(places)) == pytest.approx(again, rel=1e-9)


def test_counts_that_lead_elsewhere_are_not_used(monkeypatch):
    """Another version's defaults: the score is aggregated anew."""
    import sacrebleu

    monkeypatch.setitem(metrics._SENTENCES, "bleu", lambda: sacrebleu.BLEU(tokenize="char"))
    items = sentences(5)
    assert metrics._sentence_sums(theirs.bleu, items) is None
    found = evaluator(theirs.bleu, items)(np.arange(5))
    assert found == theirs.bleu(items)


def test_resamples_are_of_documents_and_the_same_for_all():
    """Two items of a document come together."""
    plan = plan_resampling(["a", "b", "a", "c"], lambda _: 0.0)
    assert plan.num_resamples == 2000
    assert [places.tolist() for places in plan.documents] == [[0, 2], [1], [3]]
    drawn = [places.tolist() for places in plan.draws()]
    assert drawn == [places.tolist() for places in plan.draws()]
    assert all(places.count(0) == places.count(2) for places in drawn)
    parts = [places.tolist() for places in plan.parts()]
    assert parts == [[1, 3], [0, 2, 3], [0, 2, 1]]


def test_slow_scores_are_drawn_less_often_and_say_so(monkeypatch):
    clock = iter([0.0, 2.5])
    monkeypatch.setattr(corpus.time, "perf_counter", lambda: next(clock))
    plan = plan_resampling(range(5), lambda _: 0.0)
    assert plan.num_resamples == 240
    assert plan.told == (
        "BCa bootstrap over 5 documents, 240 resamples (2,000 would take 83 minutes)"
    )


def test_a_part_without_a_score_takes_no_side():
    def fails(items):
        if len(set(items)) < 2:
            raise ZeroDivisionError
        return sum(items) / len(items)

    assert np.isnan(evaluator(fails, [1, 2])(np.array([0, 0])))
    one = compared(fails, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert one.recovery.estimate == 1


def test_intervals_are_those_of_a_mean():
    """A mean is a function of all items, too: its own bootstrap finds nearly the same."""
    from fly.stats.paired import compare_scores

    own = RNG.beta(4, 2, size=120)
    other = np.clip(own * RNG.choice([1, 1, 1, 0.7, 1.1], size=120), 0, 1)
    one = compared(lambda items: float(np.mean(items)), own, other, resamples=2000)
    two = compare_scores(own, other, range(120))
    for ours, want in (
        (one.to_paired().recovery, two.recovery),
        (one.to_paired().difference, two.to_paired().difference),
    ):
        assert ours.estimate == pytest.approx(want.estimate)
        width = want.high - want.low
        assert ours.low == pytest.approx(want.low, abs=0.1 * width)
        assert ours.high == pytest.approx(want.high, abs=0.1 * width)
    assert one.p_ratio_at_most(0.93) == pytest.approx(two.p_ratio_at_most(0.93), abs=0.05)
    assert one.p_difference_at_most(-0.05) == pytest.approx(
        two.p_difference_at_most(-0.05), abs=0.05
    )
    assert Share(0.97).items_needed(one) == pytest.approx(Share(0.97).items_needed(two), rel=0.15)
    assert one.spread(0.97)[1] == pytest.approx(two.spread(0.97)[1], rel=0.1)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_bounds_clear_just_the_margins_that_are_rejected(higher_is_better):
    own, other = sentences(60, 0.2, seed=1), sentences(60, 0.3, seed=1)
    one = compared(theirs.chrf, own, other, higher_is_better=higher_is_better)
    low, high = one.lower_ratio(), one.upper_ratio()
    for step in (0.98, 1.02):
        assert (one.p_ratio_at_most(low * step) < 0.05) == (step < 1)
        assert (one.p_ratio_at_least(high * step) < 0.05) == (step > 1)
    low, high = one.lower_difference(), one.upper_difference()
    for step in (-1, 1):
        assert (one.p_difference_at_most(low + step) < 0.05) == (step < 0)
        assert (one.p_difference_at_least(high + step) < 0.05) == (step > 0)


def test_less_is_better():
    """Twice the errors is half the quality; what differs stays method minus target."""
    own, other = sentences(50, 0.2, seed=2), sentences(50, 0.5, seed=2)
    one = compared(theirs.ter, own, other, higher_is_better=False, point=1.0)
    paired = one.to_paired()
    assert paired.recovery.estimate == pytest.approx(theirs.ter(own) / theirs.ter(other))
    assert paired.difference.estimate > 0
    assert paired.difference.low <= paired.difference.estimate <= paired.difference.high
    back = compared(theirs.ter, other, own, higher_is_better=False, point=1.0)
    for margin in (Share(0.97), Points(3)):
        assert judge_all([one], margin)[0].verdict == "NOT SAFE"
        assert margin.p_safe(back) < 0.05


def test_no_difference_is_not_certainty():
    """As with single items: 98 documents without a loss do not show 97 %, 99 do."""
    for count, verdict in ((98, "INCONCLUSIVE"), (99, "SAFE")):
        items = sentences(count)
        [judged] = judge_all([compared(theirs.bleu, items, items, point=1.0)])
        assert judged.verdict == verdict
        if judged.items_needed is not None:
            assert "So few cannot support this margin" in judged.explanation
            assert judged.items_needed >= 99


@pytest.mark.parametrize("name", ["share", "points"])
def test_size_by_simulation(name):
    """At the margin SAFE is said in 5 % of cases, not more often than chance lets it look."""
    runs, rejected, documents = 100, 0, 80
    rng = np.random.default_rng(11)
    for _ in range(runs):
        weights = rng.integers(1, 6, size=documents)
        own = rng.binomial(weights, 0.6)
        kept = rng.binomial(own, 0.85)  # of what the target finds
        gained = rng.binomial(weights - own, 0.6 * 0.12 / 0.4)
        one = compared(
            ratio_of_sums,
            np.stack([own, weights], axis=1),
            np.stack([kept + gained, weights], axis=1),
            resamples=99,
        )
        # The method's true score is 0.6 * (0.85 + 0.12) = 0.582.
        margin = Share(0.97) if name == "share" else Points(1.8)
        rejected += margin.p_safe(one) < 0.05
    assert rejected <= stats.binom.isf(0.001, runs, 0.05)


def test_where_there_is_no_ratio():
    zero = compared(ratio_of_sums, [(0, 2)] * 9, [(1, 2)] * 9)
    assert zero.recovery.estimate is None
    assert zero.p_ratio_at_most(0.97) == 1
    assert zero.p_difference_at_most(-0.1) < 0.05
    below = compared(ratio_of_sums, [(-1, 2)] * 9, [(1, 2)] * 9)
    assert "below zero" in below.recovery.method
    lost = compared(ratio_of_sums, [(1, 2)] * 9, [(0, 2)] * 9)
    assert (lost.recovery.estimate, lost.recovery.low) == (0, 0)
    assert lost.p_ratio_at_least(0.97) < 1e-9
    one = compared(ratio_of_sums, [(1, 2)], [(1, 2)])
    assert one.recovery.low is None
    assert one.p_ratio_at_most(0.97) == one.p_difference_at_most(-0.1) == 1
