"""Steps, a forward over the slot cache as one function of tensors.  It is transformers' own, traced
once; what differs between rounds lies in tensors and in their sizes, so that few steps serve all
rounds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from fly.engine.model.masks import MaskPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (ids [B, n], positions [B, n], slots [kv_len], buffers) -> logits [B, n, V].  Token b, i goes to
# slot positions[b, i] of row b, attention sees the slots below kv_len.
# Buffers are two a layer, [rows, H, capacity, D], of one row exactly where the step is for one, and
# with capacity above kv_len: an export keeps apart what differed in its example.
Step = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor]], Tensor]

LARGEST = {"rows": 4096, "tokens": 8192, "slots": 1 << 20}


class StepKind(NamedTuple):
    """One of the steps that serve a model: sizes of 1 are traced as constants."""

    is_single: bool  # one row, else two or more
    is_long: bool  # two or more tokens a row, else one

    @classmethod
    def of(cls, num_rows: int, n: int) -> StepKind:
        """That of a forward of [num_rows, n] tokens."""
        return cls(num_rows == 1, n > 1)

    def __str__(self) -> str:
        """As in file names."""
        return f"{'row' if self.is_single else 'rows'}_{'tokens' if self.is_long else 'token'}"


class Backend(Protocol):
    """A way to make steps other than running the model."""

    name: str  # in reports

    def why_not(self) -> str | None:
        """What is missing here for making any, in words; None where nothing is."""
        ...

    def has(self, module: StepModule, kind: StepKind) -> bool:
        """Whether making it takes next to no time."""
        ...

    def make(self, module: StepModule, kind: StepKind, buffers: Sequence[Tensor]) -> Step:
        """A step; whatever error torch raises where it cannot be made.

        Args:
            module: the function.
            kind: its sizes.
            buffers: of the model's cache, with any rows and slots.
        """
        ...


class StepCache:
    """The steps that a model has.  It runs eagerly where there is none."""

    def __init__(self) -> None:
        """None yet."""
        self._steps: dict[StepKind, Step] = {}
        self.is_on = True  # off: everything runs eagerly, whatever there is
        self._basis: object = ()

    def add(self, kind: StepKind, step: Step) -> None:
        """From now on it serves all forwards of its kind."""
        self._steps[kind] = step

    def rest_on(self, basis: object) -> None:
        """Forget the steps where what they were made of is not what it was."""
        if basis != self._basis:
            self._steps, self._basis = {}, basis

    def find(self, num_rows: int, n: int) -> Step | None:
        """What runs n tokens of so many rows."""
        if not self.is_on or not self._steps:
            return None
        return self._steps.get(StepKind.of(num_rows, n))

    def __contains__(self, kind: StepKind) -> bool:
        """Whether there is one."""
        return kind in self._steps


class IndexedLayer(DynamicLayer):
    """One layer's keys and values, in buffers that a forward is given."""

    is_sliding = False

    def __init__(self, owner: IndexedCache) -> None:
        """Share the owner's places."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self.buffers: Sequence[Tensor] = ()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H, n, D]; return views [B, H, kv_len, D]."""
        places, views = self._owner, []
        num_rows, num_heads = key_states.shape[:2]
        rows = torch.arange(num_rows, device=key_states.device)[:, None, None]
        heads = torch.arange(num_heads, device=key_states.device)[:, None]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            # By index, so that nothing but tensors tells where.
            buffer.index_put_((rows, heads, places.slots[:, None]), new)
            views.append(buffer[:num_rows, :, : places.kv_len])
        return views[0], views[1]

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Not asked for where positions and masks are given."""
        return 0

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Length and offset of the keys that attention sees."""
        return self._owner.kv_len, 0


class IndexedCache(Cache):
    """A transformers cache without a state of its own: `use` names the buffers of a forward."""

    def __init__(self, num_layers: int) -> None:
        """Of so many layers."""
        self.slots = torch.empty(0, 0, dtype=torch.int64)  # [B, n]
        self.kv_len = 0
        self.indexed_layers = [IndexedLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self.indexed_layers))

    def use(self, slots: Tensor, kv_len: int, buffers: Sequence[Tensor]) -> None:
        """The next forward writes to `slots` of the buffers, two a layer."""
        self.slots, self.kv_len = slots, kv_len
        for number, layer in enumerate(self.indexed_layers):
            layer.buffers = buffers[2 * number : 2 * number + 2]


class StepModule(nn.Module):
    """The function that is traced."""

    def __init__(
        self,
        model: PreTrainedModel,
        masks: MaskPlan,
        num_layers: int,
        num_positions: int | None,
        common_vocab: int,
    ) -> None:
        """All of it as SlotModel has it."""
        super().__init__()
        self.model = model
        self._masks, self._dtype = masks, model.dtype
        self._num_positions, self._common_vocab = num_positions, common_vocab
        self._cache = IndexedCache(num_layers)
        self.settings = str((masks, self._dtype, num_layers, num_positions, common_vocab))

    def forward(
        self, ids: Tensor, positions: Tensor, slots: Tensor, buffers: list[Tensor]
    ) -> Tensor:
        """Logits [B, n, V]; see Step."""
        kv_len = slots.shape[0]
        self._cache.use(positions, kv_len, buffers)
        mask = self._masks.build(positions, kv_len, self._dtype)
        if self._num_positions is not None:
            positions = positions.clamp_max(self._num_positions - 1)
        logits: Tensor = self.model(
            input_ids=ids.clamp_max(self._common_vocab - 1),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return logits[..., : self._common_vocab]


def example(
    kind: StepKind, buffers: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Inputs to trace with.  No two sizes are equal, and none is special.

    Args:
        kind: which step.
        buffers: the cache's, of any rows and slots.
    """
    rows, n = 1 if kind.is_single else 3, 5 if kind.is_long else 1
    made = [
        each.new_zeros(1 if kind.is_single else 4, each.shape[1], 96, each.shape[3])
        for each in buffers
    ]
    device = buffers[0].device
    ids = torch.full((rows, n), 5, device=device)
    positions = torch.arange(n, device=device).repeat(rows, 1) + 20
    return ids, positions, torch.arange(48, device=device), made


def free_sizes(kind: StepKind, num_buffers: int) -> tuple[Any, ...]:
    """Which sizes of `example` stay open."""
    dim = torch.export.Dim
    line: dict[int, Any] = {}
    if not kind.is_single:
        line[0] = dim("rows", min=2, max=LARGEST["rows"])
    if kind.is_long:
        line[1] = dim("tokens", min=2, max=LARGEST["tokens"])
    buffer = {2: dim("capacity", min=2, max=LARGEST["slots"])}
    if not kind.is_single:
        buffer[0] = dim("cache_rows", min=2, max=LARGEST["rows"])
    return line, line, {0: dim("kv_len", min=2, max=LARGEST["slots"])}, [buffer] * num_buffers


def export_step(module: StepModule, kind: StepKind, buffers: Sequence[Tensor]) -> Any:
    """The step as an ExportedProgram."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(
            module,
            example(kind, buffers),
            dynamic_shapes=free_sizes(kind, len(buffers)),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
