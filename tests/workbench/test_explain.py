"""The first answers: what decides, and how many are looked at."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fly.config import FLyConfig
from fly.errors import ConfigError, FLyWarning
from fly.workbench.explain import FirstLook
from fly.workbench.methods import parse_methods
from fly.workbench.tasks import load_tasks
from tests.workbench import made_up
from tests.workbench.tasks import EXACT, ONLY_BLEU, TWO_FILTERS, options, write_task
from tests.workbench.test_scoring import Canned

TARGET = parse_methods(["target"], FLyConfig(target_model_path="t", draft_model_path="d"), 4)[0]
OWN = """
process_results: !function own.score
metric_list:
  - metric: acc
    aggregation: {aggregation}
    higher_is_better: true
"""
CODE = """
def score(doc, results):
    return {{"acc": {value}}} if {condition} else {{}}

def no_number(items):
    return {{"acc": len(items)}}

def fails(items):
    raise ZeroDivisionError("few")
"""


@pytest.fixture
def look(tmp_path):
    """`look(task, answers)` returns what decides, and the documents decoded for it."""

    def run(more, num_items=40, *, wanted=None, kept=(), value="1.0", condition="True"):
        (tmp_path / "own.py").write_text(CODE.format(value=value, condition=condition))
        write_task(tmp_path, "numbers", more, num_items)
        tasks = load_tasks(options(["numbers"], tmp_path))
        ready = [
            replace(one, prepared=made_up.ready("x", 0).prepared)
            for one in tasks.requests(Canned([""]))
        ]
        decoded = []

        class Engine:
            def decode(self, requests):
                decoded.append(len(requests))
                for place in range(len(requests)):
                    yield place, made_up.result()

        store = SimpleNamespace(
            answers={
                "target": {
                    one.key: made_up.answer("target", one)
                    for one in ready
                    if one.instance.doc_id in kept
                }
            },
            answer=lambda method, one, result: made_up.answer(method.name, one),
        )
        found = FirstLook(TARGET, lambda _: Engine(), store, wanted).deciding(tasks, ready)
        return found["numbers"], decoded

    return run


def test_four_documents_are_enough(look):
    assert look(EXACT) == (("exact_match", "none"), [4])
    assert look(TWO_FILTERS, wanted="exact_match,flexible")[0] == ("exact_match", "flexible")


def test_answers_that_are_kept_are_not_decoded_again(look):
    assert look(EXACT, kept=range(40))[1] == []
    assert look(EXACT, kept=[0, 10])[1] == [2]


def test_where_the_first_have_no_score_more_are_looked_at(look):
    mean = OWN.format(aggregation="mean")
    metric, decoded = look(mean, condition='doc["answer"] == "37"')
    assert metric == ("acc", "none")
    assert decoded == [4, 4, 8]


def test_no_score_at_all(look):
    mean = OWN.format(aggregation="mean")
    with pytest.raises(ConfigError, match="first 40 answers has a score: its process_results"):
        look(mean, condition="False")
    with pytest.raises(ConfigError, match="first 64 answers has a score: only acc,none, which is"):
        look(mean, num_items=300, value='float("nan")')


def test_a_metric_that_no_answer_has(look):
    with pytest.raises(ConfigError, match="no metric 'f1' that makes a score: 40 answers") as said:
        look(OWN.format(aggregation="mean"), wanted="f1")
    assert said.value.fix == "choose one of acc,none"


def test_an_aggregation_is_tried(look):
    assert look(ONLY_BLEU)[0] == ("bleu", "none")
    with pytest.raises(
        ConfigError, match=r"aggregation of acc,none gives \{'acc': 4\}, which is no"
    ):
        look(OWN.format(aggregation="!function own.no_number"))
    with pytest.warns(FLyWarning, match=r"fails on the first 4 answers \(ZeroDivisionError: few\)"):
        assert look(OWN.format(aggregation="!function own.fails"))[0] == ("acc", "none")
