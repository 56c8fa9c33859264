"""Forwards replayed from CUDA graphs, one by rows, tokens and keys.  A graph launches all kernels
of a forward at once.  Not run on a GPU: CPU tests replay recorded operations in its place."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fly.drafting.draft_steps import DraftSteps, confidence
from fly.drafting.uploads import RowInts
from fly.engine.model.devices import has_hooks, is_hooked, parts
from fly.engine.model.graph import Step
from fly.engine.model.kv_cache import SlotMapping
from fly.engine.model.slots import SlotModel
from fly.errors import FLyWarning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SWITCH = "FLY_CUDA_GRAPHS"  # in the environment, "off" decodes without them
# Tokens of a row in one forward from which its launches no longer count.
MOST_TOKENS = 64
MOST_GRAPHS = 256  # the one captured first goes
# Rows and tokens are rounded up to these and their doubles, so at most by a half.
_SIZES = (1, 2, 3)


class Graphs(Protocol):
    """What records a device's work, to be done again on what then lies at the same addresses."""

    def capture(self, run: Callable[[], Any]) -> Callable[[], None]:
        """Record `run`; what it returns does that again, without Python."""
        ...


class CudaGraphs:
    """CUDA graphs of one device; their intermediate results share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        """Of this device."""
        self._device = device
        self._pool: Any = None

    def capture(self, run: Callable[[], Any]) -> Callable[[], None]:
        """Record after one run on a stream aside, where libraries make their workspaces."""
        with torch.cuda.device(self._device):
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                run()
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                run()
        self._pool = graph.pool()
        replay: Callable[[], None] = graph.replay
        return replay


def round_up(count: int, most: int) -> int:
    """The size whose graph serves `count` rows or tokens; no more than `most`, which is enough."""
    size = 1
    while True:
        for each in _SIZES:
            if each * size >= count:
                return min(each * size, most)
        size *= 2


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph with the tensors that it reads and writes."""

    ids: Tensor  # [B, n]
    slots: Tensor  # [B, n]
    logits: Tensor  # [B, n, V], or what else the step gives, of all graphs of these sizes
    unseen: int  # slot that no row sees, for padding
    replay: Callable[[], None]

    def __call__(self, ids: Tensor, slots: Tensor) -> Tensor:
        """Logits of ids that are no larger; later replays do not change them."""
        num_rows, n = ids.shape
        self.ids[:num_rows, :n] = ids
        self.slots.fill_(self.unseen)
        self.slots[:num_rows, :n] = slots
        self.replay()
        padding = self.ids.shape[1] - n
        return self.logits[:num_rows, : self.logits.shape[1] - padding].clone()


@dataclass
class CapturedSteps:
    """A step replayed from graphs where its sizes came before, and run as it is otherwise.

    Slots from kv_len on must exist and be seen by nobody; padding is written to the last of them.
    """

    step: Step
    graphs: Graphs
    num_replays: int = 0
    _captured: dict[tuple[int, int, int], _Captured] = field(default_factory=dict)
    _met: set[tuple[int, int, int]] = field(default_factory=set)
    _logits: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _place: tuple[object, ...] = ()  # of the cache's buffers
    _has_failed: bool = False

    def __call__(
        self, ids: Tensor, slots: Tensor, seen: Tensor, buffers: Sequence[Tensor]
    ) -> Tensor:
        """As the step; `seen` holds a whole bucket of keys."""
        num_rows, n = ids.shape
        most_rows, _, capacity, _ = buffers[0].shape
        if self._has_failed or n > MOST_TOKENS or len(seen) >= capacity:
            return self.step(ids, slots, seen, buffers)
        # All buffers move together.
        place = (most_rows, capacity, buffers[0].data_ptr(), buffers[-1].data_ptr())
        if place != self._place:
            self.forget()
            self._place = place
        sizes = round_up(num_rows, most_rows), round_up(n, MOST_TOKENS), len(seen)
        if sizes not in self._captured and sizes in self._met:
            self._capture(sizes, ids, buffers)
        if sizes not in self._captured:
            self._met.add(sizes)  # a shape that never comes again is not worth a graph
            return self.step(ids, slots, seen, buffers)
        self.num_replays += 1
        return self._captured[sizes](ids, slots)

    def forget(self) -> None:
        """Give up all graphs and their memory."""
        self._captured, self._met, self._logits = {}, set(), {}
        self._place = ()

    @property
    def num_graphs(self) -> int:
        """Graphs held."""
        return len(self._captured)

    def _capture(
        self, sizes: tuple[int, int, int], like: Tensor, buffers: Sequence[Tensor]
    ) -> None:
        """Capture the step in these sizes, or say once that it cannot be done."""
        num_rows, n, kv_len = sizes
        unseen = buffers[0].shape[2] - 1
        ids, slots = like.new_zeros(num_rows, n), like.new_full((num_rows, n), unseen)
        seen = torch.arange(kv_len, device=like.device)
        try:
            if (num_rows, n) not in self._logits:
                self._logits[num_rows, n] = self.step(ids, slots, seen, buffers).clone()
            logits = self._logits[num_rows, n]
            replay = self.graphs.capture(lambda: logits.copy_(self.step(ids, slots, seen, buffers)))
        except Exception as failure:  # noqa: BLE001  models and drivers raise whatever they like
            self.forget()
            self._has_failed = True
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            warnings.warn(
                "a forward cannot be captured as a CUDA graph, so decoding goes on without them "
                f"({type(failure).__name__}: {reason})",
                FLyWarning,
                stacklevel=2,
            )
            return
        if len(self._captured) >= MOST_GRAPHS:
            del self._captured[next(iter(self._captured))]
        self._captured[sizes] = _Captured(ids, slots, logits, unseen, replay)


class CapturedModel(SlotModel):
    """A slot model whose extensions are replayed from graphs; prefill and trees are not."""

    kv_bucket = 64
    steps_at_once = 4  # asking a pace waits for the device
    # Growing costs all graphs, memory costs only what longer rows might use.
    max_reserved = 4096

    def __init__(
        self,
        model: PreTrainedModel,
        common_vocab: int | None = None,
        *,
        share_prefixes: bool = True,
        graphs: Graphs | None = None,
    ) -> None:
        """Wrap a loaded model; arguments as in LoadedModel.

        Args:
            graphs: what captures; None: CUDA graphs.
        """
        super().__init__(model, common_vocab, share_prefixes=share_prefixes)
        self.cache.unseen = 1
        self._graphs = graphs or CudaGraphs(self.device)
        self.captured = CapturedSteps(_weak(self._step), self._graphs)
        self.chains: dict[int, CapturedSteps] = {}  # by their tokens
        self._seen = torch.arange(0)

    def kv_len(self, end: int) -> int:
        """Rounded up by at most 64 slots, or an eighth."""
        bucket = self.kv_bucket
        while 16 * bucket < end:
            bucket *= 2
        return -(-end // bucket) * bucket

    def extend(self, ids: Tensor, starts: Sequence[int]) -> Tensor:
        n = ids.shape[1]
        if n > MOST_TOKENS or not self.cache.is_allocated:
            return super().extend(ids, starts)
        slots, seen = self._open(RowInts.of(starts, ids.device), n)
        return self.captured(ids, slots, seen, self.cache.all_buffers)

    def _open(self, starts: RowInts, n: int) -> tuple[Tensor, Tensor]:
        """Slots [B, n] that graphs are going to write, and those that attention sees."""
        device, kv_len = self.device, self.kv_len(max(starts) + n)
        slots = starts.tensor[:, None] + torch.arange(n, device=device)
        self.cache.write_at(SlotMapping(slots, 0, max(starts), kv_len))
        if len(self._seen) < kv_len:
            self._seen = torch.arange(self.cache.capacity, device=device)
        return slots, self._seen[:kv_len]

    def follows(self, num_rows: int) -> bool:
        return self.cache.is_allocated

    def follow(
        self, tokens: Tensor, starts: RowInts, count: int, *, wants_confidence: bool
    ) -> list[DraftSteps]:
        """All steps in one graph, or, where somebody looks in between, some in each."""
        found = []
        for before in range(0, count, most := self.steps_at_once if wants_confidence else count):
            n = min(most, count - before)
            slots, seen = self._open(starts, n)
            chain = self.chains.setdefault(
                n, CapturedSteps(partial(_weak(self._chain), n), self._graphs)
            )
            told = chain(tokens, slots[:, :1], seen, self.cache.all_buffers)
            ids, sure = told[..., 0].long(), told[..., 1].float()
            found.append(DraftSteps(ids, None, sure if wants_confidence else None))
            tokens, starts = ids[:, -1:], starts.plus([n] * len(starts))
        return found

    def _chain(
        self, count: int, ids: Tensor, slots: Tensor, seen: Tensor, buffers: Sequence[Tensor]
    ) -> Tensor:
        """Greedy steps; [B, count, 2] of each the token and its probability, as float64, since a
        graph has one result."""
        last, found = buffers[0].shape[2] - 1, []
        for _ in range(count):
            logits = self._step(ids, slots, seen, buffers)
            ids = logits.argmax(-1)
            sure = confidence(logits, ids, None)[:, None]
            found.append(torch.stack([ids.double(), sure.double()], -1))
            slots = (slots + 1).clamp_max(last)  # padding stays in the last slot
        return torch.cat(found, 1)

    def _step(self, ids: Tensor, slots: Tensor, seen: Tensor, buffers: Sequence[Tensor]) -> Tensor:
        """One forward, in which nothing but tensors and sizes differs between calls."""
        kv_len = len(seen)
        # A graph keeps what the host knew, so no row's start: the highest possible stands for it.
        self.cache.mapping = SlotMapping(slots, 0, kv_len - ids.shape[1], kv_len)
        return self._forward(ids, slots, self._masks.build(slots, kv_len, self._dtype))

    def clear(self) -> None:
        super().clear()
        for each in (self.captured, *self.chains.values()):
            each.forget()


def _weak(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Calls a method of a model that it does not keep alive, nor its graphs and buffers with it."""
    known = weakref.WeakMethod(method)

    def call(*given: Any) -> Tensor:
        alive = known()
        assert alive is not None
        return alive(*given)

    return call


def why_not(model: PreTrainedModel, device: torch.device) -> str | None:
    """What forbids to capture a model's forwards; None: nothing that is seen beforehand."""
    if device.type != "cuda":
        return f"it runs on {device.type}"
    if os.environ.get(SWITCH, "").lower() in {"off", "0", "no", "false"}:
        return f"{SWITCH} is {os.environ[SWITCH]}"
    if has_hooks(model) or len({each.device for each in model.parameters()}) > 1:
        return "it is spread over devices or offloaded"
    if any(hasattr(each, "device_mesh") for each in model.parameters()):
        return "it is split over processes"
    # They run once, when the graph is captured.
    if any(map(is_hooked, parts(model))):
        return "somebody has hooked functions of their own into it"
    return None
