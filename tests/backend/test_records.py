"""The results block adds up and is valid JSON whatever was counted."""

import json

from fly.backend.records import RequestRecord, summarise, to_json
from fly.decoding import Statistics


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
