"""`fly.workbench.compare` and `sweep` from Python, and their results as pandas tables."""

import sys
from pathlib import Path
from typing import Any

import pytest

import fly.workbench
from fly.errors import ConfigError, FLyWarning, MissingExtraError
from fly.formats.comparison import Comparison
from fly.formats.sweep import Sweep
from tests.harness import pairs
from tests.harness.conftest import pair, tasks
from tests.workbench.tasks import ONLY_BLEU, write_task

__all__ = ["pair", "tasks"]

METHODS = ["target", "native", "fly:win_len=2"]


def options(folder: Path) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return {"task_manager": manager, "batch_size": 2}


@pytest.fixture(scope="module")
def compared(pair, tasks) -> Comparison:
    arguments = {"config_path": str(pair.config), "device": "cpu"}
    return fly.workbench.compare(
        arguments, ["toy_text"], methods=METHODS, limit=4, **options(tasks)
    )


@pytest.fixture(scope="module")
def swept(pair, tasks) -> Sweep:
    arguments = {"config_path": str(pair.config), "device": "cpu"}
    grid = {"spd_k": [6, 8], "win_len": [2, 3]}
    return fly.workbench.sweep(arguments, ["toy_text"], grid, **options(tasks))


def test_compare_returns_its_record(compared):
    assert isinstance(compared, Comparison)
    names = [method.name for method in compared.tasks[0].methods]
    assert names[:3] == METHODS
    assert compared.tasks[0].num_items == 4
    assert Comparison.model_validate_json(compared.model_dump_json()) == compared


def test_a_row_for_every_method(compared):
    frame = compared.to_frame()
    methods = compared.tasks[0].methods
    assert list(frame["method"]) == [method.name for method in methods]
    assert set(frame["task"]) == {"toy_text"}
    assert list(frame["role"]) == [method.role for method in methods]
    assert list(frame["score"]) == [method.score.value for method in methods]
    assert list(frame["tokens_per_s"]) == [method.speed.tokens_per_s for method in methods]
    assert list(frame["num_equal"]) == [method.texts.num_equal for method in methods]
    rows = frame.set_index("method")
    for method in methods:
        row = rows.loc[method.name]
        if method.speed.vs_target is None:
            assert method.role == "target"
            assert row.isna()[["speedup", "speedup_low", "speedup_high", "gained"]].all()
            continue
        assert row["speedup"] == method.speed.vs_target.estimate
        assert row["gained"] == method.paired.gained
        assert row["mcnemar_p"] == method.paired.mcnemar_p
        assert row["difference_low"] == method.paired.difference.low
    loose = rows.loc["fly:win_len=2"]
    found = next(method for method in methods if method.name == "fly:win_len=2")
    assert loose["verdict"] == found.verdict.verdict
    assert loose["tau"] == found.acceptance.mean_acceptance_length
    assert {"recovery", "recovery_low", "recovery_high", "lost", "items_needed"} <= set(frame)


def test_sweep_returns_its_record(swept):
    assert isinstance(swept, Sweep)
    assert len(swept.points) == 4
    assert swept.num_search_items == 3  # two of five are held out
    assert Sweep.model_validate_json(swept.model_dump_json()) == swept


def test_a_row_for_every_point(swept):
    frame = swept.to_frame()
    assert list(frame["point"]) == [point.name for point in swept.points]
    assert list(frame["spd_k"]) == [6, 6, 8, 8]
    assert list(frame["win_len"]) == [2, 3, 2, 3]
    assert list(frame["speedup"]) == [point.speedup.estimate for point in swept.points]
    assert list(frame["rounds"]) == [point.rounds for point in swept.points]
    assert list(frame["stopped"].notna()) == [point.stopped is not None for point in swept.points]
    assert not frame["recommended"].any()  # a pair that scores nothing supports no setting


def test_a_sweep_by_points(pair, tasks):
    """Three items without a score show that less than 80 points are lost."""
    arguments = {"config_path": str(pair.config), "device": "cpu"}
    result = fly.workbench.sweep(
        arguments, ["toy_text"], {"win_len": [2]}, margin_points=80, **options(tasks)
    )
    assert (result.margin, result.margin_points) == (None, 80)
    [point] = result.points
    assert point.recovery_lower is None
    assert -80 < point.points_lower < 0
    assert result.recommended == "win_len=2"
    assert "difference in points is at least -80" in result.conclusion
    assert (result.heldout.margin, result.heldout.margin_points) == (None, 80)
    assert list(result.to_frame()["points_lower"]) == [point.points_lower]


def test_a_sweep_takes_means_only(pair, tmp_path, monkeypatch):
    write_task(tmp_path, "translated", ONLY_BLEU)
    arguments = {"config_path": str(pair.config), "device": "cpu"}
    from fly.workbench.sweeps.search import Search

    monkeypatch.setattr(Search, "run", lambda _: pytest.fail("searched"))
    with (
        pytest.warns(FLyWarning, match="bleu is no mean"),
        pytest.raises(ConfigError, match="'translated': a sweep chooses by a mean over items"),
    ):
        fly.workbench.sweep(arguments, ["translated"], {"win_len": [2]}, **options(tmp_path))


@pytest.mark.parametrize("result", ["compared", "swept"])
def test_without_pandas(request, monkeypatch, result):
    found = request.getfixturevalue(result)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="needs pandas") as error:
        found.to_frame()
    assert "[stats]" in error.value.fix


def test_wrong_arguments_raise(pair, tasks):
    arguments = {"config_path": str(pair.config), "device": "cpu"}
    with pytest.raises(ConfigError, match="'compare2'"):
        fly.workbench.compare(arguments, ["toy_text"], methods=["compare2"], **options(tasks))
    with pytest.raises(ConfigError, match="spd_k"):
        fly.workbench.sweep(arguments, ["toy_text"], {"spd_k": ["x"]}, **options(tasks))


def test_repeats_are_answers_of_their_own(pair, tmp_path):
    folder = pairs.save_tasks(tmp_path / "tasks", num_items=3)
    task = folder / "toy_text.yaml"
    task.write_text(task.read_text() + "repeats: 2\n")
    result = fly.workbench.compare(
        {"config_path": str(pair.config), "device": "cpu"},
        ["toy_text"],
        methods=["target", "fly"],
        gen_kwargs="do_sample=True,temperature=1.0",
        output_path=tmp_path / "out",
        **options(folder),
    )
    from fly.formats.answers import Answer

    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    answers = [Answer.model_validate_json(line) for line in lines if '"kind": "answer"' in line]
    for method in result.tasks[0].methods:
        own = {(one.doc_id, one.repeat): one for one in answers if one.method == method.name}
        assert set(own) == {(doc, repeat) for doc in range(3) for repeat in range(2)}
        assert method.texts.num_answers == 6
        assert any(own[doc, 0].text != own[doc, 1].text for doc in range(3))
    assert result.tasks[0].num_items == 3
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 3
