"""The fly_demo tasks load from the package and tell right from wrong."""

from typing import Any

import lm_eval
import pytest
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from fly.demo.problems import training_stream
from fly.errors import ConfigError
from fly.execution import suspended
from fly.tasks import TASKS_PATH, demo_items

pytestmark = pytest.mark.filterwarnings("ignore")
TASKS = ("fly_demo_math", "fly_demo_code")


class Oracle(LM):
    """Answers every item with its own solution, or with that of another item."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        answers = [request.doc["solution"] for request in requests]
        return answers if self.right else answers[1:] + answers[:1]

    def loglikelihood(self, *_: Any, **__: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.fixture(autouse=True)
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")


class Stopping(Oracle):
    """Ends its answers where the task says."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        texts = super().generate_until(requests)
        [[stop]] = {tuple(request.args[1]["until"]) for request in requests}
        assert all(text.count(stop) == 1 for text in texts)
        return [text.partition(stop)[0] for text in texts]


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(TASKS_PATH), include_defaults=False)


def evaluate(manager: TaskManager, right: bool, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(
        Oracle(right), tasks=["fly_demo"], task_manager=manager, bootstrap_iters=0, **options
    )
    assert results is not None
    return dict(results)


def test_a_perfect_model_scores_one(manager: TaskManager) -> None:
    results = evaluate(manager, right=True, limit=20, confirm_run_unsafe_code=True)
    assert results["results"]["fly_demo_math"]["exact_match,answer"] == 1.0
    assert results["results"]["fly_demo_code"]["pass@1,answer"] == 1.0
    assert results["groups"]["fly_demo"]["acc,answer"] == 1.0


def test_an_answer_that_ends_at_a_stop_string_is_scored_without_it(manager: TaskManager) -> None:
    """The oracle gives whole solutions; what stands behind the stop string is not needed."""
    for right, score in ((True, 1.0), (False, 0.0)):
        results = lm_eval.simple_evaluate(
            Stopping(right), tasks=["fly_demo_math_stop"], task_manager=manager, limit=20
        )
        assert results is not None
        assert results["results"]["fly_demo_math_stop"]["exact_match,answer"] == score


def test_a_wrong_model_scores_zero(manager: TaskManager) -> None:
    results = evaluate(manager, right=False, limit=20, confirm_run_unsafe_code=True)
    assert results["results"]["fly_demo_math"]["exact_match,answer"] == 0.0
    assert results["results"]["fly_demo_code"]["pass@1,answer"] == 0.0
    assert results["groups"]["fly_demo"]["acc,answer"] == 0.0


def test_code_is_not_run_unless_confirmed(manager: TaskManager) -> None:
    with pytest.raises(ValueError, match="unsafe"):
        evaluate(manager, right=True, limit=1)


def test_code_is_not_run_unless_permitted(
    manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said when the task is loaded, before anything is decoded."""
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL")
    with pytest.raises(ConfigError, match=r"'fly_demo_code' runs .* HF_ALLOW_CODE_EVAL is not 1"):
        evaluate(manager, right=True, limit=1, confirm_run_unsafe_code=True)


def test_answers_alone_need_no_permission(
    manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL")
    responses = [["\n    return 1"]]
    with suspended():
        assert demo_items.code_items(code_items=1)["test"].num_rows == 1
        assert demo_items.run_programs(responses, [{}]) == responses


def test_tasks_have_the_published_sizes_and_settings(manager: TaskManager) -> None:
    tasks = {name: manager.load_task_or_group(name)[name] for name in TASKS}
    assert [len(tasks[name].test_docs()) for name in TASKS] == [500, 250]
    for task in tasks.values():
        assert task.VERSION == 1.0
        assert task.config.generation_kwargs["do_sample"] is False
        assert task.config.generation_kwargs["max_gen_toks"] == 192


def test_more_items_begin_with_the_same_ones() -> None:
    metadata = {"math_items": 502, "code_items": 3}
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata=metadata)
    loaded = lm_eval.tasks.get_task_dict(list(TASKS), manager)
    math, code = (list(loaded[task].test_docs()) for task in TASKS)
    assert math[:500] == list(demo_items.math_items()["test"])
    assert (len(math), len(code)) == (502, 3)


def test_no_item_is_in_the_training_stream() -> None:
    keys = set(demo_items.math_items()["test"]["key"]) | set(demo_items.code_items()["test"]["key"])
    assert len(keys) == 750
    stream = training_stream(0)
    assert not any(next(stream).key in keys for _ in range(20_000))
