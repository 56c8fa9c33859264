"""Processes that decode by turns, and what is computed from what they did."""

import os
import sys
from types import SimpleNamespace

import pytest

ADDER = """
import sys
sys.path.insert(0, {folder!r})
from workers import serve

def load():
    print("loading")
    return {{"threads": __import__("os").environ["OMP_NUM_THREADS"]}}, answer

def answer(question):
    print("noise")
    return {{"sum": sum(question)}}

serve(load)
"""


@pytest.fixture
def start(script, tmp_path):
    workers = script("workers")

    def run(text):
        file = tmp_path / "worker.py"
        file.write_text(text.format(folder=os.path.dirname(workers.__file__)))
        return workers.Worker([sys.executable, file], {}, tmp_path)

    return run


def test_a_worker_answers_in_turn_whatever_libraries_print(start):
    worker = start(ADDER)
    assert worker.loaded == {"threads": "1"}
    assert [worker.ask(question)["sum"] for question in ([1, 2], [], [5])] == [3, 0, 5]
    worker.stop()


def test_a_worker_that_ends_early_is_told_with_its_status(start):
    with pytest.raises(SystemExit, match="ended early: 3"):
        start("raise SystemExit(3)")


def timed(script, seconds, tokens=50, token=7):
    return script("blocks").Timed([[token] * tokens] * 2, seconds)


def test_two_checkouts_have_a_ratio_with_its_noise(script):
    slow, fast = timed(script, 1.0), timed(script, 0.5)
    block = {"before": slow, "after": fast, "before again": slow}
    other = block | {"after": timed(script, 0.5, token=8)}
    found = script("against").summary([block] * 5 + [other])
    assert found["after / before"]["estimate"] == pytest.approx(2)
    assert found["before again / before (A/A)"]["estimate"] == pytest.approx(1)
    assert found["answers"] == {"equal": 10, "of": 12}


@pytest.mark.parametrize("names", [["plain", "native"], ["plain", "native", "fly"]])
def test_vllm_is_compared_by_method_with_its_bars(script, names):
    vllm_cpu = script("vllm_cpu")
    block = {f"ours {name}": timed(script, 1 / (2 + at)) for at, name in enumerate(names)}
    block |= {f"vllm {name}": timed(script, 1.0) for name in names}
    block[vllm_cpu.AGAIN] = block["ours plain"]
    pair = SimpleNamespace(target=None)
    found = vllm_cpu.summary(pair, [[n] for n in range(12)], [block] * 6, names)
    ratios = found["ratios"]
    assert [ratios[name]["ratio"]["estimate"] for name in names] == pytest.approx(
        [2 + at for at in range(len(names))]
    )
    assert [ratios[name]["bar"]["at_least"] for name in names] == [0.95, 1.1, 1.15][: len(names)]
    assert ratios["A/A"]["ratio"]["estimate"] == pytest.approx(1)
    assert found["texts"] == {name: {"equal": 12} for name in names}


@pytest.mark.parametrize("has_flashspec", [True, False])
def test_a_peer_stands_with_its_fastest_setting(script, has_flashspec):
    steps = script("steps")
    block = {name: timed(script, 1.0) for name in steps.ASSISTED}
    block["assisted-k4"] = timed(script, 0.25)
    if has_flashspec:
        block |= {name: timed(script, 2.0) for name in steps.GAMMAS}
        block["flashspec-g15"] = timed(script, 0.5)
    (found,) = steps.with_fastest([block])
    assert found["assisted"] is block["assisted-k4"]
    assert found.get("flashspec") is block.get("flashspec-g15")


def test_what_was_not_compiled_is_not_called_so(script):
    told = {"target": "compiled", "draft": "eager: no compiler"}
    decoder = SimpleNamespace(generate=lambda prompts, **_: [], compiled=SimpleNamespace(told=told))
    pair = SimpleNamespace(decoder=lambda *_, **__: decoder)
    with pytest.raises(SystemExit, match="no compiler"):
        script("compiled_texts").answers_compiled(pair, 1, [])
    told["draft"] = "compiled"
    assert script("compiled_texts").answers_compiled(pair, 1, []) == []


def test_shares_of_compared_texts_add_up(script):
    shares = [{"fly, batch 1": {"equal": 3, "tie": 1}}, {"fly, batch 1": {"equal": 4}}]
    assert script("compiled_texts").added(shares) == {"fly, batch 1": {"equal": 7, "tie": 1}}
