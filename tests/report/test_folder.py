"""What a folder holds, whichever command wrote it."""

import pytest

from fly.errors import ReportError
from fly.report.folder import load_folder
from tests.report import folders

OLDER = "2026-11-21T10-20-30.123456"


def test_comparison(tmp_path):
    found = load_folder(folders.write_comparison(tmp_path, num_items=4, num_tokens=20))
    assert found.comparison is not None
    assert (found.sweep, found.run, found.notes) == (None, None, [])
    assert (len(found.answers), len(found.items)) == (24, 8)
    assert found.windows == {"fly": folders.WINDOW}


def test_sweep_shows_its_held_out_comparison(tmp_path):
    found = load_folder(folders.write_sweep(tmp_path))
    assert found.sweep is not None
    assert found.comparison == found.sweep.heldout


def test_run(tmp_path):
    found = load_folder(folders.write_run(tmp_path))
    assert found.run is not None
    (task,) = found.run.tasks
    assert (task.task, task.num_items) == ("gsm8k", 20)
    assert [(one.filter, one.value, one.stderr) for one in task.scores] == [
        ("strict-match", 0.65, 0.109),
        ("flexible-extract", 0.7, None),
    ]
    assert [item.scores for item in found.items[:3]] == [{"fly": 0}, {"fly": 1}, {"fly": 1}]
    assert len(found.items) == len(found.answers) == 20


def test_of_two_runs_the_newer_counts(tmp_path):
    folders.write_run(tmp_path, OLDER, num_items=5)
    found = load_folder(folders.write_run(tmp_path, num_items=3))
    assert len(found.answers) == len(found.items) == 3
    assert found.notes == [f"answers_{OLDER}.jsonl: 5 answers of an older run are left out."]


def test_unfinished_comparison_still_opens(tmp_path):
    folder = folders.write_comparison(tmp_path, num_items=2, num_tokens=20)
    (folder / "compare.json").unlink()
    found = load_folder(folder)
    assert len(found.answers) == 12
    assert any("not finished" in note for note in found.notes)


def test_comparison_without_answers_still_opens(tmp_path):
    folder = folders.write_comparison(tmp_path, num_items=2, num_tokens=20)
    (folder / "answers.jsonl").unlink()
    assert any("no tokens can be shown" in note for note in load_folder(folder).notes)


@pytest.mark.parametrize("make", [
    lambda path: None,
    lambda path: folders.write_answers(path, []),
    lambda path: (path / "compare.json").write_text(folders.comparison([]).model_dump_json()),
], ids=["nothing", "a header only", "no task"])  # fmt: skip
def test_empty_result(tmp_path, make):
    make(tmp_path)
    with pytest.raises(ReportError, match="holds no results") as caught:
        load_folder(tmp_path)
    assert "fly compare" in caught.value.fix


def test_missing_folder(tmp_path):
    with pytest.raises(ReportError, match="is no folder"):
        load_folder(tmp_path / "out")


def test_a_folder_that_no_file_system_has(tmp_path):
    with pytest.raises(ReportError, match="is no folder"):
        load_folder(tmp_path / ("x" * 300))
