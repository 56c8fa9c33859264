"""Scores of given answers are those that lm-eval reports for them."""

import math

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM

from fly.errors import ConfigError
from fly.tasks import TASKS_PATH
from fly.workbench.scoring import Scorer
from fly.workbench.tasks import load_tasks
from tests.workbench.tasks import EXACT, NO_MEAN, ONLY_BLEU, TWO_FILTERS, options, write_task


class Canned(LM):
    """Answers every request by its place in its task; counts copies of a request."""

    def __init__(self, answers):
        super().__init__()
        self._answers = answers

    def loglikelihood(self, requests):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        return [self._answers[place % len(self._answers)] for place in range(len(requests))]


@pytest.fixture
def folder(tmp_path):
    write_task(tmp_path, "numbers", EXACT)
    write_task(tmp_path, "filtered", TWO_FILTERS)
    write_task(tmp_path, "graded", NO_MEAN)
    write_task(tmp_path, "bleu_only", ONLY_BLEU)
    write_task(tmp_path, "repeated", "repeats: 2" + TWO_FILTERS, num_items=3)
    return tmp_path


def load(name, folder, **more):
    """A task's scorer and the places of its answers."""
    tasks = load_tasks(options([name], folder, **more))
    asked = tasks.requests(Canned([""]))
    return Scorer(tasks.by_name[name]), asked


def texts_of(asked, answers):
    """By document and index, as `Scorer.score` takes them."""
    texts = {}
    for place, one in enumerate(asked):
        key = one.instance.doc_id, one.instance.idx
        texts.setdefault(key, []).append(answers[place % len(answers)])
    return texts


def reported(name, folder, answers, **more):
    """lm-eval's own numbers: {"exact_match,none": 0.5, "exact_match_stderr,none": ...}."""
    found = simple_evaluate(model=Canned(answers), **options([name], folder, **more))
    return found["results"][name]


def aggregate(scorer, scores, metric):
    """Of the documents that have it."""
    return scorer.aggregate(list(scorer.values(scores, metric).values()), metric)


RIGHT = [f"#### {n}" for n in range(3)]
CASES = {
    "numbers": ("numbers", ["0", "1", "9", "3"], {}),
    "all wrong": ("numbers", ["x"], {}),
    "one item": ("numbers", ["0"], {"limit": 1}),
    "two filters": ("filtered", [*RIGHT, "it is 3", "#### 9 or 4", ""], {}),
    "repeats": ("repeated", ["#### 0", "0", "1", "#### 1", "x"], {}),
    "no mean": ("graded", ["0", "1 2 3 4", "2", "3 of them are there"], {}),
    "subset": ("filtered", [*RIGHT, "3"], {"samples": {"filtered": [1, 4, 5]}}),
}


@pytest.mark.parametrize(("name", "answers", "more"), CASES.values(), ids=CASES)
def test_scores_are_lm_evals(name, answers, more, folder, monkeypatch):
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    scorer, asked = load(name, folder, **more)
    scores = scorer.score(texts_of(asked, answers))
    theirs = reported(name, folder, answers, **more)
    metrics = list(next(iter(scores.values())))
    assert {",".join(metric) for metric in metrics} == {
        key for key in theirs if "," in key and "_stderr," not in key
    }
    for metric in metrics:
        found = aggregate(scorer, scores, metric)
        assert found.value == theirs[f"{found.metric},{found.filter}"]
        stderr = theirs[f"{found.metric}_stderr,{found.filter}"]
        assert found.stderr == (None if stderr == "N/A" or math.isnan(stderr) else stderr)


def test_scores_of_the_embedded_task_are_lm_evals():
    more = {"limit": 12}
    scorer, asked = load("fly_demo_math", TASKS_PATH, **more)
    answers = [
        f"So it is.\n#### {scorer.reference(one.instance.doc_id)}" if place % 3 else "#### 7"
        for place, one in enumerate(asked)
    ]
    scores = scorer.score(texts_of(asked, answers))
    found = aggregate(scorer, scores, ("exact_match", "answer"))
    theirs = reported("fly_demo_math", TASKS_PATH, answers, **more)
    assert 0 < found.value < 1
    assert found.value == theirs["exact_match,answer"]
    assert found.stderr == theirs["exact_match_stderr,answer"]
    assert found.higher_is_better


# --- what is judged


def count_judged(scorer, monkeypatch):
    """Documents that reach the task's own scoring, in the order of calls."""
    judged = []
    task = scorer._task
    original = task.process_results

    def watching(doc, results):
        judged.append(doc["answer"])
        return original(doc, results)

    monkeypatch.setattr(task, "process_results", watching)
    return judged


def test_the_same_answer_is_not_judged_twice(folder, monkeypatch):
    scorer, asked = load("numbers", folder)
    judged = count_judged(scorer, monkeypatch)
    first = scorer.score(texts_of(asked, ["0", "1", "2"]))
    assert judged == ["0", "1", "2", "3", "4", "5"]
    assert scorer.score(texts_of(asked, ["0", "1", "2"])) == first
    assert len(judged) == 6
    scorer.score(texts_of(asked, ["0", "1", "2", "3", "1", "2"]))
    assert judged[6:] == ["3"]
    assert scorer.score(texts_of(asked, ["0", "1", "2"])) == first


def test_only_items_whose_answers_are_all_there_are_scored(folder):
    scorer, asked = load("repeated", folder)
    texts = texts_of(asked, ["#### 0", "#### 0", "#### 1"])
    del texts[1, 0]
    assert sorted(scorer.score(texts)) == [0, 2]
    assert scorer.score({}) == {}


def test_parts_have_the_scores_of_the_whole(folder):
    answers = ["#### 0", "1", "#### 2", "#### 4", "4", ""]
    scorer, asked = load("filtered", folder)
    whole = scorer.score(texts_of(asked, answers))
    other, _ = load("filtered", folder)
    texts = texts_of(asked, answers)
    parts = {}
    for docs in ({3, 1}, {5}, {0, 2, 4}):
        parts |= other.score({key: own for key, own in texts.items() if key[0] in docs})
    assert parts == whole


def test_the_task_keeps_its_requests(folder):
    scorer, _ = load("numbers", folder)
    before = list(scorer._task.instances)
    scorer.score({(0, 0): ["0"]})
    assert scorer._task.instances == before


def test_reference_answer(folder):
    scorer, _ = load("numbers", folder)
    assert scorer.reference(4) == "4"


# --- the metric that decides


def metric(name, folder, wanted, answers=("0",)):
    scorer, asked = load(name, folder)
    return scorer.primary(scorer.score(texts_of(asked, answers)), wanted)


CHOICES = [
    ("filtered", None, ("exact_match", "strict")),
    ("filtered", "exact_match", ("exact_match", "strict")),
    ("filtered", "exact_match,flexible", ("exact_match", "flexible")),
    ("graded", None, ("exact_match", "none")),
    ("graded", "bleu", ("bleu", "none")),
    ("bleu_only", None, ("bleu", "none")),
    ("bleu_only", "bleu,none", ("bleu", "none")),
]


@pytest.mark.parametrize(("name", "wanted", "expected"), CHOICES)
def test_the_first_mean_decides_unless_another_is_named(name, wanted, expected, folder):
    assert metric(name, folder, wanted) == expected


@pytest.mark.parametrize(
    ("name", "wanted", "fix"),
    [
        ("filtered", "f1", "exact_match,strict, exact_match,flexible"),
        ("filtered", "exact_match,lax", "exact_match,strict, exact_match,flexible"),
        ("graded", "f1", "exact_match,none, bleu,none"),
        ("bleu_only", "acc", "bleu,none"),
    ],
)
def test_a_metric_that_cannot_decide(name, wanted, fix, folder):
    with pytest.raises(ConfigError, match=f"'{name}' has no metric '{wanted}'") as caught:
        metric(name, folder, wanted)
    assert caught.value.fix == f"choose one of {fix}"


def test_documents_may_lack_a_metric(folder, monkeypatch):
    """The first has none, and a value that is no number is none."""
    scorer, asked = load("numbers", folder)
    values = iter([{}, {"own": 1.0}, {"own": math.nan}, {"own": np.bool_(0)}, {"x": 1}, {"own": 1}])
    monkeypatch.setattr(scorer._task, "process_results", lambda *_: next(values))
    scores = scorer.score(texts_of(asked, ["0"]))
    own = ("own", "none")
    assert scorer.metrics(scores.values()) == [own, ("x", "none")]
    assert scorer.values(scores, own) == {1: 1.0, 3: 0.0, 5: 1.0}
    assert scorer.primary(scores, None) == own
    found = aggregate(scorer, scores, own)
    assert (found.value, found.num_items) == (2 / 3, 3)


def test_an_aggregation_that_fails_gives_no_score(folder, monkeypatch):
    scorer, asked = load("numbers", folder)
    scores = scorer.score(texts_of(asked, ["0"]))

    def fails(_):
        raise KeyError("x")

    monkeypatch.setitem(scorer._task.aggregation(), "exact_match", fails)
    found = aggregate(scorer, scores, ("exact_match", "none"))
    assert (found.value, found.stderr, found.num_items) == (None, None, 6)


@pytest.mark.parametrize("value", [math.nan, math.inf, "right", None, (1, 2)])
def test_what_is_no_number_decides_nothing(value, folder, monkeypatch):
    scorer, asked = load("numbers", folder)
    monkeypatch.setattr(scorer._task, "process_results", lambda doc, results: {"own": value})
    scores = scorer.score(texts_of(asked, ["0"]))
    assert scorer.primary(scores, None) is None
    if isinstance(value, float):
        assert aggregate(scorer, scores, ("own", "none")).value is None
