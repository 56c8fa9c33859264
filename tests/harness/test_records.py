"""The results block adds up and is valid JSON whatever was counted."""

import json

from fly.config import FLyConfig
from fly.engine import Statistics
from fly.harness.records import RequestRecord, remarks, summarise, to_json


def record(task, reason="eos", **counters):
    return RequestRecord(task, 3, "hash", 0, 1, reason, 4, Statistics(requests=1, **counters))


def dump(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_tasks_are_pooled_apart_and_together():
    block = summarise(
        [
            record("a", rounds=2, matched=4, proposed=8, corrections=2, emitted=6),
            record("b", "stop", rounds=1, matched=1, proposed=4, corrections=1, emitted=2),
            record("a", rounds=1, emitted=1, proposed=4, corrections=1),
        ]
    )
    assert list(block["tasks"]) == ["a", "b"]
    assert block["tasks"]["a"]["requests"] == 2
    assert block["tasks"]["a"]["metrics"]["mean_acceptance_length"] == 7 / 3
    assert block["overall"]["finish_reasons"] == {"eos": 2, "stop": 1}
    assert block["overall"]["counters"]["emitted"] == 9
    assert dump(block) == block


def test_no_requests():
    block = summarise([])
    assert (block["overall"]["requests"], block["tasks"]) == (0, {})
    assert block["overall"]["metrics"]["mean_acceptance_length"] is None
    assert dump(block) == block


def test_numbers_that_json_does_not_have():
    value = {"a": float("nan"), "b": [float("inf")], "c": (1, None, True), 4: object}
    assert dump(to_json(value))["a"] is None
    assert dump(to_json(value))["b"] == ["inf"]


def test_line_of_a_request():
    line = record("a", "length", emitted=4).to_line()
    assert {
        "task",
        "doc_id",
        "doc_hash",
        "idx",
        "copy",
        "finish_reason",
        "num_tokens",
        "resumed",
        "counters",
        "metrics",
    } == set(line)
    assert dump(line) == line


def test_remarks_are_of_the_tasks_that_tell_enough():
    slow = {"timed_rounds": 2.0, "timed_plain_s": 1.0, "timed_usual_s": 2.0}

    def said(*records):
        found = remarks(summarise(records), FLyConfig(acceptance="native"), 8)
        return [remark.partition(":")[0] for remark in found]

    assert said(record("a", **slow)) == []
    assert said(record("a", **slow), record("b", **slow)) == ["overall"]
    assert said(*[record("a", **slow)] * 2, record("b")) == ["a"]
    assert said() == []
