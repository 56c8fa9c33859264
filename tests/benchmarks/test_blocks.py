"""Methods take turns; ratios are fly compare's."""

import pytest

from benchmarks.against import added, summary
from benchmarks.blocks import Timed, bar, interleave, ratio, run_blocks, time_ratio


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


def test_two_checkouts_have_a_ratio_with_its_noise():
    def done(seconds, digest="x"):
        return added([{"tokens": 50, "seconds": seconds / 2, "digests": [digest]}] * 2)

    block = {"before": done(1.0), "after": done(0.5), "before again": done(1.0)}
    found = summary([block] * 5 + [block | {"after": done(0.5, "y")}])
    assert found["after / before"]["estimate"] == pytest.approx(2)
    assert found["before again / before (A/A)"]["estimate"] == pytest.approx(1)
    assert found["answers"] == {"equal": 10, "of": 12}
