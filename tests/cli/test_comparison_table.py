"""The terminal's tables: everything is there, and what is unknown is a dash."""

import pytest

from fly.cli.comparison_table import print_comparison
from fly.formats.comparison import (
    Acceptance,
    Comparison,
    Cost,
    MethodResult,
    OtherScore,
    Score,
    Speed,
    TaskResult,
    Texts,
)
from fly.stats.records import Interval, Paired, Verdict
from tests.report.folders import shares

UNKNOWN = Interval(estimate=None, low=None, high=None, method="too few")


def interval(estimate, width=0.1):
    return Interval(estimate=estimate, low=estimate - width, high=estimate + width, method="some")


def method(name, role="method", **more):
    """As little as a method can have."""
    given = {
        "name": name,
        "role": role,
        "batch_size": 16,
        "settings": {},
        "is_lossless": True,
        "score": score(None),
        "other_scores": [],
        "paired": None,
        "verdict": None,
        "speed": speed(None),
        "acceptance": None,
        "texts": Texts(
            **{"num_answers": 9, "num_equal": 9, "num_ties": 0, "mean_tokens": 40.5},
            **{"mean_tokens_target": 40.5, "num_loose_before": 0, "mean_gap": None},
        ),
        "seconds_by_phase": {},
        "peak_memory_bytes": None,
        "cost": None,
        "shares": None,
    }
    return MethodResult(**(given | more))


def score(value, stderr=None):
    return Score(
        metric="exact_match",
        filter="answer",
        value=value,
        stderr=stderr,
        higher_is_better=True,
        num_items=1500,
    )


def speed(tokens_per_s, **ratios):
    given = dict.fromkeys(("vs_baseline", "vs_target", "vs_native")) | ratios
    return Speed(tokens_per_s=tokens_per_s, seconds=1.0, num_blocks=8, **given)


def paired(difference, recovery, **more):
    given = {"num_items": 9, "gained": 3, "lost": 4, "mcnemar_p": 0.0625}
    return Paired(difference=difference, recovery=recovery, **(given | more))


def verdict(name):
    return Verdict(
        **{"verdict": name, "p_safe": 0.5, "p_not_safe": 0.5, "items_needed": 1500},
        explanation="About 1,500 items would decide.",
    )


def full(name, **more):
    return method(
        name,
        is_lossless=False,
        score=score(0.75, 0.0125),
        paired=paired(interval(-0.02), interval(0.973)),
        speed=speed(
            1234.4, vs_baseline=interval(1.5), vs_target=interval(2.25), vs_native=interval(1.125)
        ),
        acceptance=Acceptance(
            **{"mean_acceptance_length": 5.25, "acceptance_rate": 0.625, "loose_share": 0.0175},
            **{"rounds": 3, "by_position": [0.5], "kept_per_round": [1, 2]},
        ),
        peak_memory_bytes=300 * 2**20,
        cost=Cost(
            **{"draft_forward": 0.25, "verification": 1.2, "overhead": 0.3, "ideal_speedup": 1.75},
            **{"predicted_speedup": 1.54, "measured_speedup": 1.25, "advice": "Take a smaller K."},
        ),
        shares=shares(),
        **more,
    )


def comparison(*methods, notes=(), **more):
    task = TaskResult(
        task="numbers",
        num_items=more.pop("num_items", 1500),
        metric="exact_match,answer",
        is_binary=True,
        point=more.pop("point", 0.01),
        margin_points=more.pop("points", 2.25),
        methods=list(methods),
    )
    given = {
        **{"environment": {}, "target": "t", "draft": None, "config": {}, "margin": 0.97},
        "margin_points": None,
        **{"confidence": 0.95, "baseline": "hf_generate:batch_size=32", "batch_size": 16},
        **{"control": "target:batch_size=8", "block_size": 16},
    }
    return Comparison(tasks=[task], notes=list(notes), **(given | more))


@pytest.fixture
def printed(capsys):
    def show(result):
        print_comparison(result)
        return capsys.readouterr().out

    return show


def test_every_method_verdict_and_figure_is_there(printed):
    out = printed(
        comparison(
            full("target", role="target").model_copy(update={"paired": None}),
            full("fly:win_len=4,entropy_thre=0.1", verdict=verdict("INCONCLUSIVE")),
            full("ngram+fly", verdict=verdict("NOT SAFE")),
            full("model", verdict=verdict("SAFE")),
            method("native"),
            method("target:batch_size=8", "control", paired=paired(interval(0.0), interval(1.0))),
            method("hf_generate:batch_size=32", "baseline"),
            notes=["numbers, fly: 1 blocks were interrupted and are not timed"],
        )
    )
    assert "exact_match (answer), 1,500 items, margin 0.97 = 2.2 points" in out
    for name in ("fly:win_len=4,entropy_thre=0.1", "ngram+fly", "model", "native"):
        assert out.count(name) >= 2, "in both tables"
    assert "target:batch_size=8 (A/A control)" in out
    assert "hf_generate:batch_size=32 (plain baseline)" in out
    for text in ("reference", "exact", "INCONCLUSIVE", "NOT SAFE", "SAFE"):
        assert text in out
    assert "0.7500 ± 0.0125" in out
    for text in ("97.3%", "87.3% to 107.3%", "-2.0 (-12.0 to +8.0)", "0.062", "9/9"):
        assert text in out
    for text in ("1,234", "1.50", "1.40 to 1.60", "2.25", "1.12", "5.25", "62.5%", "1.75%"):
        assert text in out
    for text in ("40.5", "300 MiB"):
        assert text in out
    assert "baseline is hf_generate:batch_size=32, the fastest plain decoding found" in out
    assert "ngram+fly: NOT SAFE. About 1,500 items would decide." in out
    assert "model: predicted 1.54, measured 1.25 times the target at its batch" in out
    assert "Take a smaller K." in out
    assert "model: Of a round, 41% the target's products" in out
    assert "2.1 times the floor of 3.4 ms." in out
    assert "native: Of a round" not in out
    noise = "Noise floor (target:batch_size=8 beside target): 0 of 9 texts differ, 3 items gained"
    assert noise in out
    assert "Note: numbers, fly: 1 blocks were interrupted and are not timed." in out


def test_what_is_unknown_is_a_dash(printed):
    nothing = Cost(
        **dict.fromkeys(("draft_forward", "verification", "overhead", "ideal_speedup")),
        **{"predicted_speedup": None, "measured_speedup": None, "advice": "Nothing stands out."},
    )
    out = printed(
        comparison(
            method("target", "target"),
            method(
                "fly",
                is_lossless=False,
                paired=paired(UNKNOWN, UNKNOWN, mcnemar_p=None),
                speed=speed(None, vs_baseline=UNKNOWN, vs_target=UNKNOWN, vs_native=UNKNOWN),
                acceptance=Acceptance(
                    **dict.fromkeys(("mean_acceptance_length", "acceptance_rate", "loose_share")),
                    **{"rounds": 0, "by_position": [], "kept_per_round": []},
                ),
                cost=nothing,
            ),
            points=None,
        )
    )
    assert "None" not in out
    assert "margin 0.97 " in out
    assert "fly: predicted -, measured - times the target" in out
    assert "Noise floor" not in out, "there is no control"


def test_half_an_interval_is_an_estimate(printed):
    half = Interval(estimate=-0.02, low=None, high=None, method="too few blocks")
    out = printed(comparison(method("target", "target"), method("fly", paired=paired(half, half))))
    assert " -2.0 " in out
    assert " to " not in out.split("speed;")[0].split("McNemar")[1]


def test_a_margin_in_points(printed):
    shown = {"margin": None, "margin_points": 3.0, "points": 3.0}
    first = full("target", role="target").model_copy(update={"paired": None})
    assert "1,500 items, margin 3 points (0.03)" in printed(comparison(first, **shown))
    out = printed(comparison(first, full("fly"), point=1.0, **shown))
    assert "margin 3 points (3)" in out
    assert "-0.0 (-0.1 to +0.1)" in out, "a point of BLEU is one"


def test_equal_texts_are_told_in_the_intervals_place(printed):
    same = Interval(estimate=1.0, low=None, high=None, method="all 9 texts identical")
    none = Interval(estimate=0.0, low=None, high=None, method="all 9 texts identical")
    out = printed(comparison(method("target", "target"), method("fly", paired=paired(none, same))))
    assert "100.0%" in out
    assert "all 9 texts identical" in out


def test_other_metrics_have_rows(printed):
    def other(value, **more):
        given = score(value).model_dump() | {"filter": "flexible", "num_items": 1400}
        return OtherScore(**given, paired=more.get("paired"))

    out = printed(
        comparison(
            method("target", "target", score=score(0.5), other_scores=[other(0.75)]),
            method(
                "fly",
                score=score(0.5),
                other_scores=[other(0.625, paired=paired(interval(-0.125), interval(0.833)))],
            ),
        )
    )
    assert "numbers: other metrics" in out
    rows = [line for line in out.splitlines() if "exact_match (flexible)" in line]
    assert len(rows) == 2
    for text in ("fly", "1,400", "0.6250", "83.3%", "73.3% to 93.3%", "-12.5 (-22.5 to -2.5)"):
        assert text in rows[1]
    assert "exact_match,answer decides; --metric lets another: exact_match,flexible." in out


def test_documents_without_a_score_are_counted(printed):
    first = method("target", "target", score=score(0.5))
    assert "1,500 of 1,600 items" in printed(comparison(first, num_items=1600))


def test_scores_of_all_items_have_no_single_gains(printed):
    whole = paired(interval(-0.02), interval(0.973), gained=None, lost=None, mcnemar_p=None)
    out = printed(
        comparison(
            method("target", "target"),
            method("fly", paired=whole),
            method("target:batch_size=8", "control", paired=whole),
        )
    )
    assert "None" not in out
    assert "0 of 9 texts differ." in out


def test_brackets_of_names_are_no_markup(printed):
    out = printed(comparison(method("target", "target"), method("own[red]rule"), notes=["[bold]x"]))
    assert out.count("own[red]rule") == 4  # in each table
    assert "Note: [bold]x." in out
