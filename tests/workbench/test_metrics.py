"""What is known of a task's metrics before anything is decoded."""

import warnings

import pytest
from lm_eval.api import metrics as theirs

from fly.errors import ConfigError, FLyWarning
from fly.workbench.metrics import HUNDREDS, Measure, check_metrics, declared
from fly.workbench.tasks import load_tasks
from tests.workbench.tasks import (
    EXACT,
    NO_MEAN,
    ONLY_BLEU,
    TWO_FILTERS,
    options,
    write_task,
)

UNKNOWN = """
metric_list:
  - metric: exact_match
    aggregation: harmonic
    higher_is_better: true
"""
NO_DIRECTION = """
process_results: !function own.score
metric_list:
  - metric: own_score
    aggregation: mean
"""
NAMED_BY_A_FUNCTION = """
metric_list:
  - metric: !function own.at_k
    aggregation: mean
    higher_is_better: true
"""
FORMS = {
    "exact": EXACT,
    "filtered": TWO_FILTERS,
    "graded": NO_MEAN,
    "bleu_only": ONLY_BLEU,
    "unknown": UNKNOWN,
    "no_direction": NO_DIRECTION,
    "at_k": NAMED_BY_A_FUNCTION,
}


@pytest.fixture
def tasks(tmp_path):
    (tmp_path / "own.py").write_text(
        "def score(doc, results):\n    return {'own_score': 1.0}\n"
        "def at_k(references, predictions):\n    return {'acc@1': 1.0}\n"
    )

    def load(name):
        write_task(tmp_path, name, FORMS[name], num_items=2)
        return dict(load_tasks(options([name], tmp_path)).by_name)

    return load


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("exact", None),
        ("filtered", None),
        ("filtered", "exact_match,flexible"),
        ("graded", None),
        ("at_k", "acc@1"),
        ("at_k", "acc@1,none"),
    ],
)
def test_what_can_be_compared_passes_in_silence(name, wanted, tasks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_metrics(tasks(name), wanted)


@pytest.mark.parametrize(("name", "wanted"), [("bleu_only", None), ("graded", "bleu")])
def test_a_function_of_all_items_is_announced(name, wanted, tasks):
    with pytest.warns(FLyWarning, match="bleu is no mean over items but a function of all of them"):
        check_metrics(tasks(name), wanted)


def test_an_aggregation_that_lm_eval_does_not_know(tasks):
    with pytest.raises(ConfigError, match=r"has no aggregation that makes a score .*exact_match"):
        check_metrics(tasks("unknown"), None)


def test_a_metric_that_does_not_say_what_is_better(tasks):
    found = tasks("no_direction")
    with pytest.warns(FLyWarning, match="does not say whether a higher own_score is better"):
        check_metrics(found, None)
    assert declared(found["no_direction"])[0].higher_is_better


@pytest.mark.parametrize("wanted", ["f1", "exact_match,lax", "exact_mach"])
def test_an_unknown_name(wanted, tasks):
    with pytest.raises(ConfigError, match=f"'filtered' has no metric '{wanted}'") as said:
        check_metrics(tasks("filtered"), wanted)
    assert said.value.fix == "choose one of exact_match,strict, exact_match,flexible"
    if wanted == "exact_mach":
        assert "did you mean 'exact_match'" in str(said.value)


def test_points_of_a_score():
    """Of sacrebleu's a unit, of all others a hundredth."""
    assert {Measure("x", each, True).point for each in HUNDREDS} == {1.0}
    assert Measure("x", theirs.mean, True).point == Measure("x", max, True).point == 0.01
    assert not Measure("x", theirs.bypass_agg, True).is_usable
