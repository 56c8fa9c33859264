"""Files are opened, brought up to date, or refused with file and line."""

import json

import pytest

from fly.errors import ReportError
from fly.formats.reading import read_answers, read_comparison, read_items, read_sweep
from tests.report import folders


@pytest.fixture
def folder(tmp_path):
    return folders.write_comparison(tmp_path, tasks=["gsm8k"], num_items=3, num_tokens=20)


def test_what_is_written_is_read(folder, tmp_path):
    assert read_comparison(folder / "compare.json") == folders.comparison(["gsm8k"])
    found = read_answers(folder / "answers.jsonl")
    assert len(found.answers) == 9
    assert found.answers[1].rounds
    assert found.header.methods["fly"] == folders.METHODS["fly"]
    items, notes = read_items(folder / "items.jsonl")
    assert (len(items), notes, found.notes) == (3, [], [])
    swept = folders.write_sweep(tmp_path / "sweep")
    assert read_sweep(swept / "sweep.json") == folders.sweep()


@pytest.mark.parametrize(("key", "name", "read", "newest"), [
    ("fly_compare", "compare.json", read_comparison, 3),
    ("fly_sweep", "sweep.json", read_sweep, 4),
])  # fmt: skip
@pytest.mark.parametrize(("version", "message"), [
    (5, r"written by version 5 of the format; this reads 1 up to {newest}"),
    (0, r"written by version 0"),
    (None, r"does not tell its version"),
    (True, r"does not tell its version"),
])  # fmt: skip
def test_other_versions_are_refused(tmp_path, key, name, read, newest, version, message):
    (tmp_path / name).write_text(json.dumps({key: version}))
    with pytest.raises(ReportError, match=message.format(newest=newest)):
        read(tmp_path / name)


def older(path):
    """The file as version 0 had it: no origins, no rounds."""
    first, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    first["fly_answers"] = 0
    for line in lines:
        for key in ("origins", "round_lens", "rounds"):
            del line[key]
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))


def test_version_0_is_brought_up_to_date(folder):
    path = folder / "answers.jsonl"
    before = read_answers(path).answers
    older(path)
    found = read_answers(path)
    assert found.header.fly_answers == 2
    assert [one.tokens for one in found.answers] == [one.tokens for one in before]
    assert all((one.origins, one.round_lens, one.rounds) == ("", [], None) for one in found.answers)


def test_a_sweep_of_version_1_does_not_tell_what_is_lossless(tmp_path):
    path = folders.write_sweep(tmp_path) / "sweep.json"
    now = read_sweep(path)
    assert [point.is_lossless for point in now.points][:2] == [False, False]
    record = json.loads(path.read_text())
    record["fly_sweep"] = 1
    del record["margin_points"]
    for point in record["points"]:
        del point["is_lossless"], point["points_lower"]
    path.write_text(json.dumps(record))
    before = read_sweep(path)
    assert before.fly_sweep == 4
    assert {point.is_lossless for point in before.points} == {None}
    told = [point.model_copy(update={"is_lossless": False}) for point in before.points]
    assert told == list(now.points)
    path.write_text(json.dumps(record | {"points": 7}))
    with pytest.raises(ReportError, match="points"):
        read_sweep(path)


def test_a_comparison_of_version_1_compared_one_metric(folder):
    path = folder / "compare.json"
    now = read_comparison(path)
    path.write_text(json.dumps(version_1(json.loads(path.read_text()))))
    before = read_comparison(path)
    assert before.fly_compare == 3
    assert before.margin_points is None
    [task] = before.tasks
    assert (task.metric, task.point) == ("exact_match,strict-match", 0.01)
    assert {method.score.num_items for method in task.methods} == {None}
    assert task.methods[0].other_scores[0].paired is None
    assert {method.shares for method in task.methods} == {None}
    told = [
        method.model_copy(
            update={
                "score": method.score.model_copy(update={"num_items": 1000}),
                "other_scores": [],
                "shares": new.shares,
            }
        )
        for method, new in zip(task.methods, now.tasks[0].methods, strict=True)
    ]
    assert [task.model_copy(update={"methods": told})] == list(now.tasks)


def test_a_sweep_of_version_2_holds_a_comparison_of_version_1(tmp_path):
    path = folders.write_sweep(tmp_path) / "sweep.json"
    record = json.loads(path.read_text())
    heldout = json.loads(folders.comparison(["gsm8k"]).model_dump_json())
    record |= {"fly_sweep": 2, "heldout": version_1(heldout)}
    del record["margin_points"]
    for point in record["points"]:
        del point["points_lower"]
    path.write_text(json.dumps(record))
    found = read_sweep(path)
    assert found.heldout.tasks[0].metric == "exact_match,strict-match"
    assert {point.points_lower for point in found.points} == {None}


def test_a_comparison_of_version_2_does_not_tell_what_rounds_are_spent_on(folder, tmp_path):
    path = folder / "compare.json"
    now = read_comparison(path)
    assert now.tasks[0].methods[0].shares == folders.shares()
    record = json.loads(path.read_text()) | {"fly_compare": 2}
    for method in record["tasks"][0]["methods"]:
        del method["shares"]
    path.write_text(json.dumps(record))
    before = read_comparison(path)
    assert [method.shares for method in before.tasks[0].methods] == [None] * len(
        now.tasks[0].methods
    )
    swept = folders.write_sweep(tmp_path / "sweep") / "sweep.json"
    sweep = json.loads(swept.read_text()) | {"fly_sweep": 3, "heldout": record}
    swept.write_text(json.dumps(sweep))
    assert read_sweep(swept).heldout == before


def version_1(record):
    """A comparison as version 1 had it: scores without their items, no margin in points."""
    record["fly_compare"] = 1
    del record["margin_points"]
    for task in record["tasks"]:
        del task["metric"], task["point"]
        for method in task["methods"]:
            del method["score"]["num_items"], method["shares"]
            method["other_scores"] = [method["score"]]
    return record


@pytest.mark.parametrize("tasks", [None, 7, [3], [{"methods": 4}], [{"methods": [5]}]])
def test_a_damaged_comparison_of_version_1(folder, tasks):
    path = folder / "compare.json"
    record = version_1(json.loads(path.read_text())) | {"tasks": tasks}
    path.write_text(json.dumps(record))
    with pytest.raises(ReportError, match="tasks"):
        read_comparison(path)


def test_newer_answers_are_refused(folder):
    path = folder / "answers.jsonl"
    path.write_text(path.read_text().replace('"fly_answers":2', '"fly_answers":7'))
    with pytest.raises(ReportError, match="version 7 of the format; this reads 0 up to 2"):
        read_answers(path)


def test_half_written_last_line_is_dropped_and_told(folder):
    path = folder / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    found = read_answers(path)
    assert len(found.answers) == 8
    assert found.notes == ["answers.jsonl: line 10 was only half written and is left out."]


def test_last_line_that_lacks_only_its_line_feed_counts(folder):
    path = folder / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read_answers(path).answers) == 9


@pytest.mark.parametrize("damage", ['{"method": "fly", "tok', "[1, 2]", "\x00\x00"])
def test_damaged_middle_line_is_named(folder, damage):
    path = folder / "answers.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = damage
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ReportError, match=r"answers\.jsonl:5 is damaged"):
        read_answers(path)


def test_wrong_value_is_named_with_line_and_key(folder):
    path = folder / "answers.jsonl"
    path.write_text(path.read_text().replace('"idx":0', '"idx":"x"', 1))
    with pytest.raises(ReportError, match=r"answers\.jsonl:2 is no valid Answer: idx: .*got 'x'"):
        read_answers(path)


def test_lines_of_other_kinds_are_left_to_others(folder):
    path = folder / "answers.jsonl"
    with path.open("a") as file:
        file.write('{"block": 3, "seconds": 1.5}\n')
    assert len(read_answers(path).answers) == 9


def test_answer_written_twice_counts_as_first_written(folder):
    path = folder / "answers.jsonl"
    again = json.loads(path.read_text().splitlines()[1]) | {"finish_reason": "length"}
    with path.open("a") as file:
        file.write(json.dumps(again) + "\n")
    found = read_answers(path).answers
    assert len(found) == 9
    assert found[0].finish_reason == "stop"


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"),
    ('{"task": "x"}\n', "does not tell its version"),
    ("\n\n", "is empty"),
])  # fmt: skip
def test_answers_without_header(tmp_path, text, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(ReportError, match=message):
        read_answers(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_damaged_object(tmp_path, text):
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(ReportError, match=r"compare\.json"):
        read_comparison(tmp_path / "compare.json")


def test_missing_file(tmp_path):
    with pytest.raises(ReportError, match=r"compare\.json cannot be read: No such file"):
        read_comparison(tmp_path / "compare.json")
