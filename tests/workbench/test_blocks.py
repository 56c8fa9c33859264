"""Blocks: who decodes what, in which order, and what is timed."""

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from fly.config import FLyConfig
from fly.workbench import blocks as measuring
from fly.workbench.blocks import (
    PeakMemory,
    control_size,
    cut,
    fastest,
    measure,
    search,
    spread,
    warm_up,
)
from fly.workbench.methods import parse_methods
from tests.workbench.made_up import ready, result


def requests(count, task="toy"):
    return [ready(task, doc) for doc in range(count)]


def methods(*names):
    return parse_methods(list(names), FLyConfig(target_model_path="t", draft_model_path="d"), 4)


class Fake:
    """Answers in reverse order, as an engine that finishes the last first would."""

    device = torch.device("cpu")

    def __init__(self, name="", log=None, fails_at=None):
        self.name, self.log, self.fails_at = name, [] if log is None else log, fails_at

    def decode(self, asked):
        self.log.append((self.name, len(asked)))
        for place in reversed(range(len(asked))):
            if place == self.fails_at:
                raise torch.OutOfMemoryError("full")
            yield place, result()


class Kept:
    """Keeps in memory."""

    def __init__(self):
        self.answers, self.blocks = {}, []

    def has(self, method, key):
        return (method, key) in self.answers

    def keep(self, method, one, found):
        assert not self.has(method.name, one.key), "decoded twice"
        self.answers[method.name, one.key] = found

    def keep_block(self, block):
        self.blocks.append(block)


def run(chosen, slices, kept, **fails):
    log, told = [], Counter()
    engines = {each.name: Fake(each.name, log, fails.get(each.name)) for each in chosen}
    measure(chosen, engines, slices, kept, lambda name, n: told.update({name: n}))
    return log, told


# --- cutting


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 31, 100])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_every_request_is_in_one_block_of_its_task(count, batch_size):
    asked = [*requests(count, "one"), *requests(5, "two")]
    slices = cut(asked, batch_size)
    found = [one.key for each in slices for one in each.requests]
    assert sorted(found) == sorted(one.key for one in asked)
    assert all({one.task for one in each.requests} == {each.task} for each in slices)
    assert len({(each.task, each.number) for each in slices}) == len(slices)
    own = [len(each.requests) for each in slices if each.task == "one"]
    assert len(own) <= 8
    assert max(own) - min(own) <= 1
    assert min(own) >= min(batch_size, count)


def test_a_block_is_spread_over_its_task():
    for each in cut(requests(64), 8):
        places = [one.instance.doc_id for one in each.requests]
        assert places == list(range(each.number, 64, 8))


def test_nothing_to_cut():
    assert cut([], 4) == []


# --- measuring


def test_the_order_of_methods_rotates():
    chosen = methods("target", "native", "fly")
    log, told = run(chosen, cut(requests(16), 4), Kept())
    assert [name for name, _ in log] == [
        *("target", "native", "fly"),
        *("native", "fly", "target"),
        *("fly", "target", "native"),
        *("target", "native", "fly"),
    ]
    assert told == {"target": 16, "native": 16, "fly": 16}


def test_every_block_is_timed_with_its_tokens():
    kept = Kept()
    run(methods("target", "fly"), cut(requests(9), 4), kept)
    assert len(kept.answers) == 18
    found = [(each.block, each.method, each.num_answers, each.num_tokens) for each in kept.blocks]
    assert found == [
        *((0, "target", 5, 10), (0, "fly", 5, 10)),
        *((1, "fly", 4, 8), (1, "target", 4, 8)),
    ]
    assert all(each.seconds > 0 for each in kept.blocks)


def test_what_was_interrupted_goes_on_and_is_not_timed():
    chosen, slices, kept = methods("target", "native", "fly"), cut(requests(8), 4), Kept()
    with pytest.raises(torch.OutOfMemoryError):
        run(chosen, slices, kept, native=1)  # answers 3 and 2 of its first block are there
    assert len(kept.answers) == 4 + 2
    log, told = run(chosen, slices, kept)
    assert log[0] == ("native", 2)
    assert told == {"target": 8, "native": 8, "fly": 8}
    assert len(kept.answers) == 24
    assert [(each.block, each.method) for each in kept.blocks] == [
        *((0, "target"), (0, "fly")),
        *((1, "native"), (1, "fly"), (1, "target")),
    ]


def test_a_finished_run_decodes_nothing():
    chosen, slices, kept = methods("target", "fly"), cut(requests(4), 2), Kept()
    run(chosen, slices, kept)
    log, told = run(chosen, slices, kept)
    assert log == []
    assert told == {"target": 4, "fly": 4}


def test_warming_up_decodes_two_requests_by_every_method():
    log = []
    warm_up({name: Fake(name, log) for name in ("target", "fly")}, requests(5))
    assert log == [("target", 2), ("fly", 2)]


# --- the fastest plain decoding


class Paced(Fake):
    """As fast as its batch size says, up to 8 rows."""

    def __init__(self, method):
        super().__init__()
        self.seconds = 0.02 / min(method.batch_size, 8)

    def decode(self, asked):
        time.sleep(self.seconds)
        yield from super().decode(asked)


@pytest.mark.parametrize(
    ("batch_size", "num_requests", "sizes"),
    [
        (1, 1, [1]),
        (1, 3, [1, 2, 4]),
        (4, 4, [2, 4]),
        (4, 16, [2, 4, 8, 16]),
        (16, 3, [8, 16]),
    ],
)
def test_the_search_tries_sizes_that_the_requests_can_fill(
    batch_size, num_requests, sizes, monkeypatch
):
    monkeypatch.setattr(measuring, "SLOWER", 0.0)
    target, generate = (
        replace(each, batch_size=batch_size) for each in methods("target", "hf_generate")
    )
    speeds = search([target, generate], lambda method: Fake(), requests(num_requests))
    for method in (target, generate):
        found = [method.sized(name) for name in speeds]
        assert [each.batch_size for each in found if each] == sizes


def test_the_search_ends_where_more_rows_are_slower():
    target = methods("target")[0]

    def make(method):
        return Paced(replace(method, batch_size=1) if method.batch_size > 8 else method)

    speeds = search([target], make, requests(64))
    assert [target.sized(name).batch_size for name in speeds] == [2, 4, 8, 16]
    assert fastest(speeds, of=target).batch_size == 8


def test_what_runs_out_of_memory_is_not_the_fastest():
    small = replace(methods("target")[0], batch_size=2)

    def make(method):
        return Fake(fails_at=0 if method.batch_size > 2 else None)

    speeds = search([small], make, requests(3))
    assert [speed > 0 for speed in speeds.values()] == [True, True, False][: len(speeds)]
    assert fastest(speeds, of=small).batch_size <= 2


def test_other_errors_end_the_search():
    class Broken:
        def decode(self, asked):
            raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        search(methods("target"), lambda _: Broken(), requests(1))


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_spread(count):
    places = [one.instance.doc_id for one in spread(requests(9), count)]
    assert len(set(places)) == count
    gaps = [b - a for a, b in zip(places, [*places[1:], 9], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert places[0] == 0
    assert len(spread(requests(3), 9)) == 3


def test_the_control_has_another_batch_size():
    assert [control_size(16, 32), control_size(16, 16), control_size(1, 1)] == [32, 8, 2]


def test_peak_memory_grows_with_what_is_held():
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    before = memory.read()
    if before is None:
        pytest.skip("the system does not let a process forget its peak")
    held = torch.ones(2**24)
    after = memory.read()
    assert after - before > held.numel() * 3
