"""Decoding of all methods over the same requests, in timed blocks.  The order of methods rotates
from block to block, so that drift of the machine hits all alike.  Every finished answer is saved at
once and not decoded again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fly.engine import Request
from fly.errors import FLyWarning
from fly.formats.answers import Block
from fly.workbench.engines import Engine
from fly.workbench.methods import Method
from fly.workbench.store import Store
from fly.workbench.tasks import Asked

if TYPE_CHECKING:
    pass

BLOCKS = 8  # of a task, if its requests fill as many batches
BLOCKS_MIN = 5  # that a task is cut into before its blocks fill the plain baseline's batch
SEARCHED = 128  # requests that plain decoding is tried on
SLOWER = 0.9  # of the best speed: larger batches are not tried
WARM_UP = 2  # requests, before anything is timed

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size
_PEAK = "VmHWM:"  # kB


@dataclass(frozen=True)
class Slice:
    """Requests of one task that every method decodes in one go."""

    task: str
    number: int
    requests: Sequence[Asked]


def cut(ready: Sequence[Asked], batch_size: int, baseline: int = 1) -> list[Slice]:
    """Each task's requests in blocks as even as they can be, spread over the whole task: at most
    BLOCKS, none smaller than a batch, nor than the baseline's if BLOCKS_MIN of those are left."""
    by_task: dict[str, list[Asked]] = {}
    for one in ready:
        by_task.setdefault(one.task, []).append(one)
    slices = []
    for task, own in by_task.items():
        rows = max(batch_size, min(baseline, len(own) // BLOCKS_MIN))
        count = max(1, min(BLOCKS, len(own) // rows))
        slices += [Slice(task, number, own[number::count]) for number in range(count)]
    return slices


def measure(
    methods: Sequence[Method],
    engines: Mapping[str, Engine],
    slices: Sequence[Slice],
    store: Store,
    on_progress: Callable[[str, int], None],
) -> None:
    """Decode everything that is not kept yet.

    Args:
        methods: in the order of the first block.
        engines: by the method's name.
        slices: the blocks.
        store: holds and takes what is finished.
        on_progress: gets a method's name and how many answers it has finished.
    """
    for turn, one in enumerate(slices):
        start = turn % len(methods)
        for method in [*methods[start:], *methods[:start]]:
            pending = [r for r in one.requests if not store.has(method.name, r.key)]
            on_progress(method.name, len(one.requests) - len(pending))
            if pending:
                _decode(method, engines[method.name], one, pending, store, on_progress)


def _decode(
    method: Method,
    engine: Engine,
    whole: Slice,
    pending: Sequence[Asked],
    store: Store,
    on_progress: Callable[[str, int], None],
) -> None:
    """Decode the pending part of a block; timed only where that is the whole of it, since what was
    lost with a killed process is not known."""
    num_tokens, seconds = 0, 0.0
    memory = PeakMemory(engine.device)
    memory.start()
    results = engine.decode([ready.request for ready in pending])
    while True:
        begin = time.perf_counter()
        found = next(results, None)
        seconds += time.perf_counter() - begin  # not what keeping the answer takes
        if found is None:
            break
        index, result = found
        num_tokens += len(result.token_ids)
        store.keep(method, pending[index], result)
        on_progress(method.name, 1)
    if len(pending) == len(whole.requests):
        store.keep_block(
            Block(
                block=whole.number,
                method=method.name,
                task=whole.task,
                num_answers=len(pending),
                num_tokens=num_tokens,
                seconds=seconds,
                peak_memory_bytes=memory.read(),
            )
        )


def warm_up(engines: Mapping[str, Engine], ready: Sequence[Asked]) -> None:
    """Let every method decode a little, untimed."""
    requests = [one.request for one in ready[:WARM_UP]]
    for engine in engines.values():
        for _ in engine.decode(requests):
            pass


def search(
    methods: Sequence[Method], make: Callable[[Method], Engine], ready: Sequence[Asked]
) -> dict[str, float]:
    """Tokens/s of plain decoding by batch size, over the same requests: each method at half the
    batch asked for, at that, and at doubled ones as long as that is not slower.

    One that runs out of memory has 0, also where the engine would have gone on with fewer rows.
    """
    requests = [one.request for one in ready]
    speeds: dict[str, float] = {}
    for method in methods:
        size, best = max(1, method.batch_size // 2), 0.0
        while size <= method.batch_size or size < 2 * len(requests):
            tried = method if size == method.batch_size else method.at(size)
            speed = speeds[tried.name] = _speed(make(tried), requests)
            if size > method.batch_size and speed < SLOWER * best:
                break
            best = max(best, speed)
            size *= 2
    return speeds


def _speed(engine: Engine, requests: Sequence[Request]) -> float:
    begin = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FLyWarning)
        try:
            tokens = sum(len(result.token_ids) for _, result in engine.decode(requests))
        except torch.OutOfMemoryError:
            return 0.0
    if any("out of memory" in str(warning.message) for warning in caught):
        return 0.0
    return tokens / (time.perf_counter() - begin)


def spread(ready: Sequence[Asked], count: int) -> list[Asked]:
    """`count` requests, spread evenly over all."""
    return [ready[len(ready) * index // count] for index in range(min(count, len(ready)))]


def fastest(speeds: Mapping[str, float], of: Method) -> Method:
    """The method at its fastest batch size."""
    sizes = {of.name: of, **{name: sized for name in speeds if (sized := of.sized(name))}}
    return max(sizes.values(), key=lambda method: speeds.get(method.name, 0.0))


def control_size(batch_size: int, best: int) -> int:
    """The batch size of the target's other run: its best one, or where that was asked for,
    another."""
    if best != batch_size:
        return best
    return batch_size // 2 if batch_size > 1 else 2


class PeakMemory:
    """`start`, work, `read`: bytes, or None where the system has none."""

    def __init__(self, device: torch.device) -> None:
        """Watch the device's memory, or on a CPU the process's resident set."""
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._is_known = False

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _CLEAR.write_text(_RESET_PEAK)
            self._is_known = True
        except OSError:
            self._is_known = False

    def read(self) -> int | None:
        """The peak since `start`, models included."""
        if self._on_cuda:
            return int(torch.cuda.max_memory_allocated(self._device))
        if not self._is_known:
            return None
        for line in _STATUS.read_text().splitlines():
            if line.startswith(_PEAK):
                return int(line.split()[1]) * 1024
        return None
