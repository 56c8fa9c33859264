"""Tasks that run programs are found in their files, whichever way they are named."""

from types import SimpleNamespace

import pytest
from lm_eval.tasks import TaskManager

from fly.errors import ConfigError
from fly.tasks import TASKS_PATH
from fly.tasks.unsafe import check_unsafe, unsafe_tasks

BASE = "unsafe_code: true\nmetric_list: [{metric: !function gone.at_import}]\ntag: [toys]\n"


@pytest.fixture
def manager(tmp_path):
    (tmp_path / "_base").write_text(BASE)
    (tmp_path / "runs.yaml").write_text("include: _base\ntask: runs\n")
    (tmp_path / "safe.yaml").write_text("include: [_base]\ntask: safe\nunsafe_code: false\n")
    (tmp_path / "group.yaml").write_text(
        "group: mixed\ntask: [safe, {task: runs, num_fewshot: 1}]\n"
    )
    (tmp_path / "outer.yaml").write_text("group: outer\ntask: [mixed, outer]\n")
    folders = [str(TASKS_PATH), str(tmp_path)]
    return TaskManager(include_path=folders, include_defaults=False)


OLD_INDEX = {  # lm-eval up to 0.4.11
    "fly_demo_code": {"type": "task", "yaml_path": str(TASKS_PATH / "fly_demo_code.yaml")},
    "a_tag": {"type": "tag", "task": ["fly_demo_code"], "yaml_path": -1},
}
SPECS = {
    "task": (["runs"], {"runs": False}),
    "harmless": (["safe", "fly_demo_math", "no_such_task"], {}),
    "ours": (["fly_demo"], {"fly_demo_code": True}),
    "group of groups": (["outer", "runs"], {"runs": False}),
    "tag": (["toys"], {"runs": False}),
    "configuration": ([{"task": "other", "unsafe_code": True}], {"other": False}),
    "configuration of a group": ([{"group": "g", "task": ["runs"]}], {"runs": False}),
    "named in a configuration": ([{"group": "mixed"}], {"runs": False}),
    "loaded": ([SimpleNamespace(task_name="made", UNSAFE_CODE=True)], {"made": False}),
}


@pytest.mark.parametrize(("specs", "expected"), SPECS.values(), ids=SPECS)
def test_found(manager, specs, expected):
    assert unsafe_tasks(specs, manager) == expected


def test_found_by_file(manager, tmp_path):
    assert unsafe_tasks([str(tmp_path / "runs.yaml")], manager) == {"runs": False}
    (tmp_path / "broken.yaml").write_text("task: [")
    assert unsafe_tasks([str(tmp_path / "broken.yaml")], manager) == {}


def test_found_in_an_older_index():
    manager = SimpleNamespace(task_index=OLD_INDEX)
    assert unsafe_tasks(["a_tag"], manager) == {"fly_demo_code": True}


def test_both_permissions(manager, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    check_unsafe(["safe"], manager, confirmed=False)
    check_unsafe(["fly_demo"], manager, confirmed=False, predict_only=True)
    with pytest.raises(ConfigError, match="'runs' runs programs") as caught:
        check_unsafe(["runs"], manager, confirmed=False, predict_only=True)
    assert "--confirm_run_unsafe_code" in caught.value.fix
    with pytest.raises(ConfigError, match="HF_ALLOW_CODE_EVAL is not 1"):
        check_unsafe(["runs"], manager, confirmed=True)
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    check_unsafe(["runs", "fly_demo"], manager, confirmed=True)
