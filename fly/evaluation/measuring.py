"""All methods over the same requests, in blocks whose order of methods rotates, so that drift of
the machine hits all alike.  Every finished answer is kept at once and not decoded again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from fly.evaluation.memory import PeakMemory
from fly.evaluation.methods import Method
from fly.evaluation.runners import Runner
from fly.evaluation.workload import Asked
from fly.formats.answers import Block

if TYPE_CHECKING:
    from fly.backend.requests import Prepared
    from fly.decoding import Result

BLOCKS = 8  # of a task, if its requests fill as many batches
WARM_UP = 2  # requests, before anything is timed

Key = tuple[str, int | None, int, int]


@dataclass(frozen=True, eq=False)
class Ready:
    """An answer that is wanted, as the engine takes it."""

    asked: Asked
    prepared: Prepared


class Keeper(Protocol):
    """Keeps what is finished."""

    def has(self, method: str, key: Key) -> bool:
        """Whether the answer is there."""
        ...

    def keep(self, method: Method, ready: Ready, result: Result) -> None:
        """Save an answer."""
        ...

    def keep_block(self, block: Block) -> None:
        """Save what a block took."""
        ...


@dataclass(frozen=True)
class Slice:
    """Requests of one task that every method decodes in one go."""

    task: str
    number: int
    requests: Sequence[Ready]


def cut(ready: Sequence[Ready], batch_size: int, blocks: int = BLOCKS) -> list[Slice]:
    """Each task's requests in blocks as even as they can be, none smaller than a batch if there are
    enough of them; every block is spread over its whole task."""
    by_task: dict[str, list[Ready]] = {}
    for one in ready:
        by_task.setdefault(one.asked.task, []).append(one)
    slices = []
    for task, own in by_task.items():
        count = max(1, min(blocks, len(own) // batch_size))
        slices += [Slice(task, number, own[number::count]) for number in range(count)]
    return slices


def measure(
    methods: Sequence[Method],
    runners: Mapping[str, Runner],
    slices: Sequence[Slice],
    keeper: Keeper,
    memory: PeakMemory,
    on_progress: Callable[[str, int], None],
) -> None:
    """Decode everything that is not kept yet.

    Args:
        methods: in the order of the first block.
        runners: by the method's name.
        slices: the blocks.
        keeper: holds and takes what is finished.
        memory: of the device that decodes.
        on_progress: told a method's name and how many answers it has finished.
    """
    for turn, one in enumerate(slices):
        start = turn % len(methods)
        for method in [*methods[start:], *methods[:start]]:
            pending = [r for r in one.requests if not keeper.has(method.name, r.asked.key)]
            on_progress(method.name, len(one.requests) - len(pending))
            if pending:
                _decode(method, runners[method.name], one, pending, keeper, memory, on_progress)


def _decode(
    method: Method,
    runner: Runner,
    whole: Slice,
    pending: Sequence[Ready],
    keeper: Keeper,
    memory: PeakMemory,
    on_progress: Callable[[str, int], None],
) -> None:
    """Decode the pending part of a block; timed only where that is the whole of it, since what was
    lost with a killed process cannot be told."""
    num_tokens, seconds = 0, 0.0
    memory.start()
    results = runner.decode([ready.prepared.request for ready in pending])
    while True:
        begin = time.perf_counter()
        found = next(results, None)
        seconds += time.perf_counter() - begin  # not what keeping the answer takes
        if found is None:
            break
        index, result = found
        num_tokens += len(result.token_ids)
        keeper.keep(method, pending[index], result)
        on_progress(method.name, 1)
    if len(pending) == len(whole.requests):
        keeper.keep_block(
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


def warm_up(runners: Mapping[str, Runner], ready: Sequence[Ready]) -> None:
    """Let every method decode a little, untimed."""
    requests = [one.prepared.request for one in ready[:WARM_UP]]
    for runner in runners.values():
        for _ in runner.decode(requests):
            pass


def plain_candidates(
    target: Method, generate: Method, batch_size: int, num_requests: int
) -> list[Method]:
    """Plain decoding, ours and transformers', at half the batch asked for and at doubled ones, as
    long as there are requests to fill them."""
    sizes = {max(1, batch_size // 2), batch_size}
    size = 2 * batch_size
    while size < 2 * num_requests:
        sizes.add(min(size, num_requests))
        size *= 2
    return [
        method if size == method.batch_size else method.at(size)
        for method in (target, generate)
        for size in sorted(sizes)
    ]


def search(
    candidates: Sequence[Method],
    make: Callable[[Method], Runner],
    ready: Sequence[Ready],
) -> dict[str, float]:
    """Tokens/s of every candidate over the same requests; one that runs out of memory has 0."""
    requests = [one.prepared.request for one in ready]
    speeds: dict[str, float] = {}
    for method in candidates:
        runner = make(method)
        begin = time.perf_counter()
        try:
            tokens = sum(len(result.token_ids) for _, result in runner.decode(requests))
        except torch.OutOfMemoryError:
            tokens = 0
        speeds[method.name] = tokens / (time.perf_counter() - begin)
    return speeds


def spread(ready: Sequence[Ready], count: int) -> list[Ready]:
    """`count` requests, spread evenly over all."""
    return [ready[len(ready) * index // count] for index in range(min(count, len(ready)))]


def fastest(speeds: Mapping[str, float], of: Sequence[Method]) -> Method:
    """The fastest of some methods."""
    return max(of, key=lambda method: speeds[method.name])


def control_size(batch_size: int, best: int) -> int:
    """The batch size of the target's other run: its best one, or where that was asked for,
    another."""
    if best != batch_size:
        return best
    return batch_size // 2 if batch_size > 1 else 2
