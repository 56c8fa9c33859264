"""Comparisons of tasks whose scores are unlike fly_demo's: documents without one, several filters,
functions of all items, scores too low for a share; on a toy pair whose answers are replaced."""

import json
import re

import pytest
import torch

import fly.workbench
from fly.errors import ConfigError, FLyWarning
from fly.formats.comparison import Comparison, Item
from fly.workbench import comparing
from fly.workbench.divergence import Top2
from fly.workbench.methods import Method
from fly.workbench.plan import Plan
from fly.workbench.store import Store
from tests.harness.pairs import byte_tokenizer
from tests.workbench import made_up
from tests.workbench.tasks import EXACT, NO_MEAN, ONLY_BLEU, TWO_FILTERS, options, write_task

METHODS = ["target", "fly"]
ONLY_TER = """
metric_list:
  - metric: ter
    aggregation: ter
    higher_is_better: false
"""
NO_SUCH_AGGREGATION = """
metric_list:
  - metric: exact_match
    aggregation: harmonic
    higher_is_better: true
"""
# Scores of the documents in brackets are missing; of "x" that of every answer.
SPARSE = """
process_results: !function own.score
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
OWN = """
def score(doc, results):
    if int(doc["answer"]) in {missing}:
        return {{}}
    return {{"acc": float(results[0].strip() == doc["answer"])}}
"""


class Silent:
    """Says nothing; the answers are made up where they are kept."""

    device, tokenizer = torch.device("cpu"), byte_tokenizer()

    def describe(self):
        return {"models": {}, "hardware": {}}

    def top2(self, prompt_ids, answer_ids, place):
        return Top2(0.5, False)

    def report(self):
        return {}

    def decode(self, requests):
        for place in range(len(requests)):
            yield place, made_up.result()


@pytest.fixture
def run(lm, pair, tmp_path, monkeypatch):
    """`run("task", more, answer)` compares; `answer(method, doc)` is what a method says."""

    def compare(more, answer, num_items=8, missing=(), wanted=str, **settings):
        if not (tmp_path / "numbers.yaml").exists():
            write_task(tmp_path, "numbers", more, num_items, wanted)
            (tmp_path / "own.py").write_text(OWN.format(missing=set(missing)))
        original = Store.__init__

        def init(self, folder, header, make_answer):
            def make(method, ready, result):
                text = answer(method.name.partition(":")[0], ready.instance.doc_id)
                ids = list(text.encode())
                return make_answer(method, ready, result).model_copy(
                    update={"text": text, "token_ids": ids}
                )

            original(self, folder, header, make)

        monkeypatch.setattr(Store, "__init__", init)
        # Nothing here hangs on speed or on what the models say.
        monkeypatch.setattr(Plan, "load_models", lambda _: lm)
        monkeypatch.setattr(Method, "open", lambda *_, **__: Silent())
        monkeypatch.setattr(comparing, "warm_up", lambda *_: None)
        monkeypatch.setattr(comparing, "search", lambda *_: {"target": 2.0, "hf_generate": 1.0})
        model_args = {"config_path": str(pair.config), "device": "cpu"}
        given = dict(options(["numbers"], tmp_path))
        given.pop("tasks")
        return fly.workbench.compare(
            model_args, ["numbers"], **({"methods": METHODS, "batch_size": 4} | given | settings)
        )

    return compare


def right(_, doc):
    return f"#### {doc}"


def plain(_, doc):
    return str(doc)


def method(result, name="fly"):
    return next(each for each in result.tasks[0].methods if each.name == name)


# --- documents without a score


def test_a_first_document_without_a_score(run):
    result = run(SPARSE, plain, missing=[0])
    assert result.tasks[0].num_items == 8
    assert method(result).score.num_items == method(result).paired.num_items == 7
    assert method(result).verdict is not None
    [note] = result.notes
    assert note.startswith("numbers: 1 of 8 documents have no acc,none")
    assert "the 7 that have it by all methods" in note


def test_documents_without_a_score_by_one_method(run, tmp_path):
    """The pairs are those that both have."""

    def answer(name, doc):
        return str(doc + 1) if name == "fly" and doc == 3 else str(doc)

    result = run(SPARSE, answer, missing=[2, 5], output_path=tmp_path / "out")
    assert (method(result).paired.num_items, method(result).paired.lost) == (6, 1)
    assert method(result).score.value == pytest.approx(5 / 6)
    lines = (tmp_path / "out" / "items.jsonl").read_text().splitlines()
    items = [Item.model_validate_json(line) for line in lines]
    assert [item.doc_id for item in items if not item.scores] == [2, 5]
    assert len(items) == 8
    again = run(SPARSE, answer, missing=[2, 5], output_path=tmp_path / "out", resume=True)
    assert method(again).paired == method(result).paired
    assert method(again).verdict == method(result).verdict


def test_no_score_anywhere_is_found_before_the_long_run(run, monkeypatch):
    decoded = []
    monkeypatch.setattr(comparing, "choose", lambda *_: decoded.append("all"))
    with pytest.raises(ConfigError, match="none of the target's first 8 answers has a score: its "):
        run(SPARSE, plain, missing=range(8))
    assert decoded == []


# --- several metrics


def test_every_mean_has_its_row_and_a_degenerate_choice_points_to_another(run):
    """As with gsm8k: the strict filter finds nothing, the flexible one everything but one."""

    def answer(name, doc):
        return "none" if name == "fly" and doc == 3 else str(doc)

    result = run(TWO_FILTERS, answer)
    task, found = result.tasks[0], method(result)
    assert task.metric == "exact_match,strict"
    assert (found.score.filter, found.score.value) == ("strict", 0)
    [other] = found.other_scores
    assert (other.filter, other.value) == ("flexible", pytest.approx(7 / 8))
    assert (other.paired.lost, other.paired.num_items) == (1, 8)
    assert task.methods[0].other_scores[0].paired is None
    assert "exact_match,strict is 0 on every item by both" in found.verdict.explanation
    assert "--metric exact_match,flexible lets that decide" in found.verdict.explanation


def test_the_metric_is_chosen_as_lm_eval_writes_it(run):
    def answer(name, doc):
        return "none" if name == "fly" and doc == 3 else str(doc)

    result = run(TWO_FILTERS, answer, metric="exact_match,flexible")
    found = method(result)
    assert result.tasks[0].metric == "exact_match,flexible"
    assert found.paired.lost == 1
    assert "every item" not in found.verdict.explanation
    assert [each.filter for each in found.other_scores] == ["strict"]


# --- functions of all items


def words(name, doc):
    text = f"{doc} is what I would say here"
    return text.replace("would", "might") if name == "fly" and doc % 4 == 0 else text


def reference(doc):
    return words("target", doc)


def test_bleu_decides_where_nothing_is_a_mean(run):
    with pytest.warns(FLyWarning, match="bleu is no mean over items but a function of all") as said:
        result = run(ONLY_BLEU, words, num_items=12, wanted=reference)
    assert len([each for each in said if "bleu" in str(each.message)]) == 1
    task, found = result.tasks[0], method(result)
    assert (task.metric, task.point, task.is_binary) == ("bleu,none", 1.0, False)
    assert found.score.value < method(result, "target").score.value == pytest.approx(100)
    paired = found.paired
    assert (paired.gained, paired.lost, paired.mcnemar_p) == (None, None, None)
    assert paired.recovery.low < paired.recovery.estimate < 1
    assert "12 documents, 2,000 resamples" in paired.recovery.method
    assert found.verdict is not None
    assert Comparison.model_validate_json(result.model_dump_json()) == result


def test_less_is_better(run):
    with pytest.warns(FLyWarning, match="ter is no mean"):
        result = run(ONLY_TER, words, num_items=12, wanted=reference, margin_points=5)
    found = method(result)
    assert not found.score.higher_is_better
    assert found.score.value > method(result, "target").score.value == 0
    assert found.paired.difference.estimate > 0
    assert "points lost" in found.verdict.explanation or "are lost" in found.verdict.explanation


def test_a_mean_comes_first_and_a_function_of_all_items_can_be_named(run):
    assert run(NO_MEAN, plain).tasks[0].metric == "exact_match,none"


def test_an_unknown_aggregation_is_said_before_models_are_loaded(run, monkeypatch):
    monkeypatch.setattr(Plan, "load_models", lambda _: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=r"no aggregation that makes a score .*exact_match"):
        run(NO_SUCH_AGGREGATION, plain)


# --- low scores


def one_of_twelve(name, doc):
    return str(doc) if doc == 4 or (name == "fly" and doc == 5) else "x"


def test_a_score_too_low_for_a_share(run):
    result = run(EXACT, one_of_twelve, num_items=12)
    found = method(result)
    said = found.verdict.explanation
    assert found.verdict.verdict == "INCONCLUSIVE"
    assert "The target solves 1 of 12 items" in said
    assert "cannot support a relative margin" in said
    assert "--margin_points" in said
    assert "83,000" not in said
    assert "would show SAFE" not in said
    assert found.paired.recovery.low is found.paired.recovery.high is None
    assert "1 of 12" in found.paired.recovery.method
    assert found.paired.difference.low is not None


def test_points_decide_at_any_score(run, tmp_path):
    def answer(name, doc):
        return "x" if doc % 10 or (name == "fly" and doc == 0) else str(doc)

    out = tmp_path / "out"
    result = run(EXACT, answer, num_items=60, margin_points=15, output_path=out)
    assert (result.margin, result.margin_points) == (None, 15)
    assert result.tasks[0].margin_points == 15
    found = method(result)
    assert found.verdict.verdict == "SAFE"
    assert re.search(r"At most \d\.\d points are lost: better than", found.verdict.explanation)
    assert "15 points (0.15 of the score)" in found.verdict.explanation
    again = run(EXACT, answer, margin_points=15, output_path=out, resume=True)
    assert method(again).verdict == found.verdict
    with pytest.raises(fly.errors.JournalError, match="margin"):
        run(EXACT, answer, margin_points=5, output_path=out, resume=True)
    with pytest.raises(fly.errors.JournalError, match="margin"):
        run(EXACT, answer, output_path=out, resume=True)


def test_runs_without_points_go_on_as_before(run, tmp_path):
    """Their fingerprint has no key for points."""
    run(EXACT, plain, output_path=tmp_path / "out")
    header = json.loads((tmp_path / "out" / "answers.jsonl").read_text().splitlines()[0])
    assert header["settings"]["margin"] == 0.97
    assert "margin_points" not in header["settings"]


def test_equal_texts_have_no_interval(run):
    found = method(run(EXACT, plain))
    assert found.paired.recovery.method == "all 8 texts identical"
    assert found.paired.recovery.estimate == 1
    assert found.paired.recovery.low is found.paired.difference.low is None
    assert found.verdict.explanation.startswith("All 8 texts are identical to the target's.")


# --- the same settings twice


def test_methods_of_equal_rules_are_one_in_verdicts(run):
    def answer(name, doc):
        return "x" if name == "margin" and doc == 3 else str(doc)

    names = ["margin:ratio=0.5", "margin:ratio=0.50", "margin:ratio=0.6"]
    result = run(EXACT, answer, num_items=40, methods=names, margin_points=20)
    one, same, other = (method(result, name).verdict for name in names)
    assert (one.p_safe, one.p_not_safe) == (same.p_safe, same.p_not_safe)
    assert same.explanation.startswith("The same settings as margin:ratio=0.5, whose verdict this")
    for verdict in (one, same, other):
        assert verdict.explanation.endswith("Corrected for 2 verdicts (Holm).")
    [note] = [each for each in result.notes if "same settings" in each]
    assert note.startswith("margin:ratio=0.50: the same settings as margin:ratio=0.5; both have")
