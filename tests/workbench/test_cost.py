"""Costs of rounds, reckoned by hand, and what is advised."""

from dataclasses import replace

import pytest

from fly.config import FLyConfig
from fly.engine import Statistics
from fly.formats.comparison import Acceptance
from fly.workbench.costs import RoundCost, advise, best_k, explain, measure_round
from fly.workbench.methods import parse_method

# 100 plain steps of 20 ms, with 2 ms outside the model each.
PLAIN = Statistics(
    plain=100, emitted=100, seconds_target=2.0, seconds_acceptance=0.05, seconds_rest=0.15
)
# 10 rounds of 4 drafted tokens: 40 forwards of 5 ms, 24 ms to verify, 6 ms for the rest; 5 plain
# steps of 20 ms beside them.
OWN = Statistics(
    rounds=10,
    plain=5,
    proposed=40,
    matched=25,
    corrections=10,
    draft_forwards=40,
    seconds_draft=0.2,
    seconds_target=0.34,
    seconds_acceptance=0.02,
    seconds_rest=0.04,
)
METHOD = parse_method(
    "fly", FLyConfig(target_model_path="t", draft_model_path="d", spd_k=4, win_len=2), 16
)


def acceptance(tau=3.5, by_position=(0.9, 0.7, 0.5, 0.4)):
    return Acceptance(
        mean_acceptance_length=tau,
        acceptance_rate=0.6,
        loose_share=0.0,
        rounds=10,
        by_position=list(by_position),
        kept_per_round=[],
    )


def parts(**changes):
    """A cheap round: four draft forwards of a hundredth of a step."""
    cheap = RoundCost(
        **{"draft_forward": 0.01, "forwards": 4.0, "verification": 1.0},
        **{"overhead": 0.05, "plain_overhead": 0.05},
    )
    return replace(cheap, **changes)


def test_the_parts_of_a_round():
    found = measure_round(OWN, PLAIN)
    assert found.draft_forward == pytest.approx(0.005 / 0.020)
    assert found.forwards == 4
    assert found.verification == pytest.approx(0.024 / 0.020)
    assert found.overhead == pytest.approx(0.006 / 0.020)
    assert found.plain_overhead == pytest.approx(0.002 / 0.020)
    assert found.whole == pytest.approx(4 * 0.25 + 1.2 + 0.3)


def test_drafting_without_a_model_is_overhead():
    found = measure_round(replace(OWN, draft_forwards=0), PLAIN)
    assert (found.draft_forward, found.forwards) == (0, 0)
    assert found.overhead == pytest.approx((0.006 + 0.020) / 0.020)


@pytest.mark.parametrize(
    ("own", "plain"),
    [
        (OWN, Statistics()),
        (OWN, replace(PLAIN, seconds_target=0.0)),
        (Statistics(plain=5, seconds_target=0.1), PLAIN),
    ],
)
def test_what_did_nothing_cannot_be_told(own, plain):
    assert measure_round(own, plain) is None
    assert explain(METHOD, own, plain, acceptance(), 1.5) is None


def test_plain_steps_that_took_longer_leave_nothing_to_verify():
    assert measure_round(replace(OWN, seconds_target=0.05), PLAIN).verification == 0


def test_predictions():
    found = explain(METHOD, OWN, PLAIN, acceptance(), 1.25)
    assert found.ideal_speedup == pytest.approx(3.5 / (4 * 0.25 + 1))
    assert found.predicted_speedup == pytest.approx(3.5 * 1.1 / 2.5)
    assert found.measured_speedup == 1.25
    assert found.draft_forward == pytest.approx(0.25)
    assert explain(METHOD, OWN, PLAIN, acceptance(tau=None), 1.25) is None
    lookup = explain(METHOD, replace(OWN, draft_forwards=0), PLAIN, acceptance(), None)
    assert (lookup.draft_forward, lookup.measured_speedup) == (None, None)
    assert lookup.ideal_speedup == 3.5


def test_a_round_of_another_length():
    whole = parts(verification=1.4, overhead=0.3, draft_forward=0.1)
    assert whole.at(4, 4) == pytest.approx(whole.whole)
    assert whole.at(4, 1) == pytest.approx(0.1 + 1 + 0.1 + 0.3)
    assert whole.at(4, 2) == pytest.approx(0.2 + 1 + 0.2 + 0.3)


def test_the_best_number_of_drafted_tokens():
    kept = [0.9, 0.5, 0.1, 0.0]
    dear = parts(draft_forward=0.2, verification=1.4, overhead=0.3)
    rates = [1.9 / 1.6, 2.4 / 1.9, 2.5 / 2.2, 2.5 / 2.5]
    best, gain = best_k(dear, kept, 4)
    assert best == 1 + rates.index(max(rates)) == 2
    assert gain == pytest.approx(rates[1] / rates[3])
    assert best_k(parts(draft_forward=0.0), [0.9] * 4, 4) == (4, 1.0)
    assert best_k(parts(), [0.9, 0.8], 4)[0] == 2, "positions that were never offered do not count"


ADVICE = {
    "draft": (parts(draft_forward=0.6), [0.9] * 4, "A draft forward costs 0.60 of a plain step"),
    "K": (
        parts(draft_forward=0.2, verification=1.4, overhead=0.3),
        [0.9, 0.5, 0.1, 0.0],
        "spd_k=2 instead of 4 is predicted to be 26% faster",
    ),
    "batch": (parts(verification=2.5), [0.9] * 4, "costs 2.5 plain steps at batch 16"),
    "overhead": (parts(overhead=1.0), [0.9] * 4, "49% of a round is spent outside the models"),
    "longer": (parts(), [0.9, 0.9, 0.8, 0.7], "still kept in 70% of the rounds: a larger spd_k"),
    "drafting": (
        parts(draft_forward=0.4),
        [0.99, 0.98, 0.97, 0.5],
        "Drafting takes 60% of a round",
    ),
    "nothing": (parts(), [0.9, 0.8, 0.6, 0.4], "Nothing stands out: 3.5 tokens a round at the"),
    "nothing known of positions": (parts(), [], "Nothing stands out"),
}


@pytest.mark.parametrize(("cost", "kept", "text"), ADVICE.values(), ids=ADVICE)
def test_advice(cost, kept, text):
    said = advise(METHOD, cost, kept, 3.5)
    assert text in said
    assert said.count(". ") == 0, "one sentence"
    assert said.endswith(".")
