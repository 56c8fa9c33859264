"""`FLyLM` in lm-eval: HFLM's scores on the target, answers in order, stops and budgets, caching."""

import json
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from fly.harness import FLyLM

NATIVE: dict[str, Any] = {"enable_fly": False}


def instances(prompts, kind="generate_until", task="toy", **gen_kwargs):
    return [
        Instance(kind, {}, (prompt, dict(gen_kwargs)), index, (task, index, 1))
        for index, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def reference(pair):
    """lm-eval's own backend on the target."""
    return HFLM(pretrained=str(pair.target), device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def native(pair):
    return FLyLM(config_path=str(pair.config), device="cpu", batch_size=3, **NATIVE)


def test_log_likelihood_is_the_targets(lm, reference):
    pairs = [("one two", " three"), ("a", "b"), ("", "begin"), ("x" * 300, "y")]
    requests = [
        Instance("loglikelihood", {}, pair, index, ("toy", index, 1))
        for index, pair in enumerate(pairs)
    ]
    ours, theirs = lm.loglikelihood(requests), reference.loglikelihood(requests)
    for (value, greedy), (expected, expected_greedy) in zip(ours, theirs, strict=True):
        assert value == pytest.approx(expected, abs=1e-5)
        assert greedy == expected_greedy


def test_native_answers_are_hflms_in_the_order_asked(native, reference):
    prompts = ["a longer prompt here", "b", "some words", "the longest prompt of them all", "c d"]
    requests = instances(prompts, until=["a", "\n"], max_gen_toks=20, do_sample=False)
    assert native.generate_until(requests, disable_tqdm=True) == reference.generate_until(
        requests, disable_tqdm=True
    )


def test_budget_and_stop_strings_are_kept(native):
    [free] = native.generate_until(instances(["tell"], until=[], max_gen_toks=16), True)
    assert len(free) > 4
    [short] = native.generate_until(instances(["tell"], until=[], max_gen_toks=3), True)
    assert free.startswith(short.rstrip("�"))
    assert native._records[-1].num_tokens == 3
    stop = next(char for char in free[2:] if char.isascii() and char not in free[:2])
    [cut] = native.generate_until(instances(["tell"], until=[stop], max_gen_toks=16), True)
    assert cut == free.split(stop)[0]


def test_edges_of_prompts(native):
    requests = instances(["", "a", "z" * 400], until=[], max_gen_toks=6)
    answers = native.generate_until(requests, disable_tqdm=True)
    assert len(answers) == 3


def test_padding_is_neither_decoded_nor_counted(pair):
    """lm-eval fills the list of a process that has too few requests up with its last one."""
    lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=4)
    one, last = instances(["a", "b"], until=[], max_gen_toks=5)
    texts = lm.generate_until([one, last, last, last], disable_tqdm=True)
    assert texts[1] == texts[2] == texts[3] != texts[0]
    assert sorted(record.doc_id for record in lm._records) == [0, 1]


def test_no_requests(native):
    assert native.generate_until([], disable_tqdm=True) == []


def test_draft_equal_to_target_decodes(pair, reference):
    lm = FLyLM(pretrained=str(pair.target), config_path=str(pair.config), device="cpu", **NATIVE)
    requests = instances(["once", "more"], until=[], max_gen_toks=20)
    assert lm.generate_until(requests, True) == reference.generate_until(requests, True)


def test_plain_decoding_loads_no_draft_and_gives_the_same_text(pair, reference):
    lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=2, use_sd=False)
    requests = instances(["once", "more", "again"], until=[], max_gen_toks=10)
    assert lm.draft is None
    assert lm.generate_until(requests, True) == reference.generate_until(requests, True)
    block = lm.speculative_decoding()
    assert block["draft"] is None
    assert block["is_lossless"]


def test_results_block(pair):
    lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=2)
    empty = lm.speculative_decoding()
    assert empty["overall"]["requests"] == 0
    asked = instances(["a", "b"], task="first", max_gen_toks=5)
    lm.generate_until([*asked, *instances(["c"], task="second", max_gen_toks=5)], True)
    block = lm.speculative_decoding(lm.gather_records())
    assert {task: one["requests"] for task, one in block["tasks"].items()} == {
        "first": 2,
        "second": 1,
    }
    assert block["overall"]["requests"] == 3
    assert block["target"]["path"] == str(pair.target)
    assert block["draft"]["path"] == str(pair.draft)
    assert block["is_lossless"] is empty["is_lossless"] is False  # FLy, by the configuration
    assert (block["draft_length"], block["remarks"]) == ("fixed", [])
    assert set(block["versions"]) >= {"fly", "lm_eval", "torch", "transformers"}
    assert json.loads(json.dumps(block, allow_nan=False)) == block
    assert lm.get_model_info()["target_model_path"] == str(pair.target)


def test_from_python_by_name(pair, tasks):
    results = lm_eval.simple_evaluate(
        model="fly",
        model_args={"pretrained": str(pair.draft), "config_path": str(pair.config)},
        tasks=["toy_text"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=4,
    )
    assert "exact_match,none" in results["results"]["toy_text"]
    assert results["config"]["model"] == "fly"
    assert results["config"]["speculative_decoding"]["tasks"]["toy_text"]["requests"] == 5


def test_a_ready_model(lm, tasks):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = lm_eval.simple_evaluate(model=lm, tasks=["toy_text"], task_manager=manager)
    assert "exact_match,none" in results["results"]["toy_text"]


def test_evaluated_twice(pair, tasks):
    """Each evaluation tells of its own requests, one without generation of none."""
    lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=4)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    for name, num_requests in (("toy_text", 5), ("toy_text", 5), ("toy_choice", 0)):
        results = lm_eval.simple_evaluate(model=lm, tasks=[name], task_manager=manager)
        assert results["config"]["speculative_decoding"]["overall"]["requests"] == num_requests


def test_automatic_batch_size(pair):
    given = {"config_path": str(pair.config), "device": "cpu", "batch_size": "auto:2"}
    lm = FLyLM(**given, max_batch_size=2)
    assert lm.num_rows == "auto:2"
    asked = instances([f"{n}:" for n in range(5)], until=["\n"], max_gen_toks=9, do_sample=False)
    answers = lm.generate_until(asked, disable_tqdm=True)
    assert lm.num_rows == 2
    one = FLyLM(**{**given, "batch_size": 1}).generate_until(asked, disable_tqdm=True)
    assert answers == one
    block = lm.speculative_decoding()
    assert block["batch_size"] == 2
    assert block["served"] == {"target": "batched", "draft": "batched", "drafter": "model"}
    assert set(block["forwards"]) == {"target", "draft"}


def test_fingerprint_follows_what_changes_text(pair):
    given = {"config_path": str(pair.config), "device": "cpu", "use_sd": False}
    first = FLyLM(**given).fingerprint()
    assert FLyLM(**given, batch_size=7).fingerprint() == first
    assert FLyLM(**given, dtype="bfloat16").fingerprint() != first
    assert FLyLM(**given | {"target_model_path": str(pair.draft)}).fingerprint() != first


def test_progress_bar_is_drawn_on_standard_error(native, capfd):
    native.generate_until(instances(["a", "b"], max_gen_toks=4))
    out, err = capfd.readouterr()
    assert "2/2" in err
    assert out == ""
