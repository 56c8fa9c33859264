"""Methods take turns; ratios are fly compare's."""

import time

import pytest

from benchmarks.blocks import (
    Pair,
    Timed,
    bar,
    dealt,
    interleave,
    ratio,
    run_blocks,
    same_texts,
    share_out,
    time_ratio,
    timed,
    tokens_and_seconds,
    total,
)
from fly.engine import Result, Statistics


def method(name, calls, seconds):
    def run(prompts):
        calls.append(name)
        return Timed([list(prompt) for prompt in prompts], seconds * len(prompts))

    return run


def test_the_order_rotates():
    calls = []
    methods = {name: method(name, calls, 1.0) for name in "abc"}
    sums = interleave(methods, [[[1]], [[1, 2]], [[3]]], turn=1)
    assert "".join(calls) == "bca" + "cab" + "abc"
    assert sums["a"].num_tokens == 4
    assert sums["a"].seconds == 3.0


def test_blocks_hold_all_prompts_once_behind_a_warm_up():
    calls = []
    methods = {"slow": method("slow", calls, 2.0), "fast": method("fast", calls, 1.0)}
    prompts = [[n] for n in range(10)]
    blocks = run_blocks(methods, prompts, num_blocks=5)
    assert calls[:2] == ["slow", "fast"]
    assert sorted(answer for block in blocks for answer in block["fast"].answers) == prompts
    found = ratio(blocks, "fast", "slow")
    assert [found[key] for key in ("estimate", "low", "high")] == pytest.approx([2, 2, 2])
    assert time_ratio(blocks, "slow", "fast")["estimate"] == pytest.approx(2)


@pytest.mark.parametrize(("low", "is_met"), [(0.99, True), (0.9, False), (None, False)])
def test_a_bar_is_met_by_the_lower_end(low, is_met):
    assert bar({"ratio": {"low": low}}, 0.95)["bar"] == {"at_least": 0.95, "met": is_met}


def test_compiling_is_no_part_of_the_time(monkeypatch):
    seconds = iter([10.0, 17.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    results = [
        Result(
            token_ids=[1, 2],
            text="",
            finish_reason="eos",
            statistics=Statistics(seconds_compile=2.5),
        )
        for _ in range(2)
    ]
    done = timed(lambda prompts: results)([[0], [0]])
    assert done.seconds == pytest.approx(2)
    assert done.statistics.seconds_compile == pytest.approx(5)


def test_a_pair_settings_are_those_of_its_decoders():
    pair = Pair(compile="off", spd_k=8)
    assert pair.decoder(1, acceptance="native").config.compile == "off"
    assert [pair.decoder(1, **given).config.spd_k for given in ({}, {"spd_k": 9})] == [8, 9]


def test_shares_hold_all_prompts_once():
    prompts = [[n] for n in range(5)]
    assert share_out(sorted, prompts, 2) == [[[0], [2], [4]], [[1], [3]]]


def test_texts_are_counted_in_the_order_of_the_blocks():
    prompts = [[n] for n in range(5)]
    methods = {"a": method("a", [], 1.0), "b": method("b", [], 1.0)}
    blocks = run_blocks(methods, prompts, num_blocks=2)
    order = [prompt for own in dealt(prompts, 2) for prompt in own]
    assert total(blocks, "a").answers == order
    assert same_texts(None, order, order, total(blocks, "b").answers) == {"equal": 5}
    assert tokens_and_seconds(blocks) == [
        {"a": [3, 3.0], "b": [3, 3.0]},
        {"a": [2, 2.0], "b": [2, 2.0]},
    ]
