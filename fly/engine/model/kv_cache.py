"""The slot cache, with the token at position p in slot p of its row.  Refusing tokens costs
nothing: the row's length stays where it was, and what lies after it is overwritten by the next
write."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from fly.engine.model.devices import MovedOnce


@dataclass(frozen=True, eq=False)
class SlotMapping:
    """Slots that one forward writes [B, n] tokens to, and how many slots its attention sees."""

    slots: Tensor  # [B, n] int64; MovedOnce where layers lie on several devices
    first_row: int  # the rows are consecutive
    start: int  # the highest first slot of a row, on the host
    kv_len: int
    is_even: bool = False  # all rows begin at `start`, so a plain copy will do

    @cached_property
    def rows(self) -> Tensor:
        """[B, 1] int64."""
        first, slots = self.first_row, self.slots
        rows = torch.arange(first, first + len(slots), device=slots.device)[:, None]
        return MovedOnce.of(rows) if isinstance(slots, MovedOnce) else rows


class SlotLayer(DynamicLayer):
    """One layer's keys and values: two buffers [rows, H, capacity, D], filled with zeros when
    allocated, since a stale finite value behind a mask is harmless and a NaN is not.
    """

    is_sliding = False

    def __init__(self, owner: SlotCache) -> None:
        """Share the owner's sizes and its current mapping."""
        super().__init__()  # type: ignore[no-untyped-call]
        # Weakly, or the buffers of a cache that nobody uses stay until the garbage is collected,
        # which decoding, with its few new objects, seldom causes.
        self._owner: SlotCache = weakref.proxy(owner)
        self.buffers: list[Tensor] = []
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H, n, D] at the current slots; return views [B, H, kv_len, D]."""
        mapping = self._owner.mapping
        if not self.buffers:
            self.buffers = self._allocate((key_states, value_states))
        num_rows, _, n, _ = key_states.shape
        first, start = mapping.first_row, mapping.start
        views = []
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            view = buffer[first : first + num_rows, :, : mapping.kv_len]
            if mapping.is_even:
                view[:, :, start : start + n] = new
            else:
                rows, slots = (index.to(new.device) for index in (mapping.rows, mapping.slots))
                buffer[rows, :, slots] = new.transpose(1, 2)
            views.append(view)
        self.keys, self.values = views
        return self.keys, self.values

    def _allocate(self, like: Sequence[Tensor]) -> list[Tensor]:
        """Zeros of the owner's sizes, one buffer for each of `like`, [B, H, n, D]."""
        num_rows, capacity = self._owner.num_rows, self._owner.capacity
        return [
            states.new_zeros(num_rows, states.shape[1], capacity, states.shape[3])
            for states in like
        ]

    def grow(self) -> None:
        """Make the buffers as large as the owner's sizes, keeping what they hold."""
        grown = self._allocate(self.buffers)
        for buffer, old in zip(grown, self.buffers, strict=True):
            known = old[:, :, : old.shape[2] - self._owner.unseen]
            buffer[: known.shape[0], :, : known.shape[2]] = known
        self.buffers = grown

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Slots that lie before this forward's own, counted over the longest row."""
        return self._owner.mapping.start

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Length and offset of the keys that attention sees."""
        return self._owner.mapping.kv_len, 0


class SlotCache(Cache):
    """A transformers cache of slot layers.  `write_at` is called before every forward."""

    def __init__(self, num_layers: int, longest: int | None = None) -> None:
        """An empty cache; buffers are allocated by the first forward, on the device and in the
        dtype of its states.  Rows reach hardly further than `longest`, if that is known.
        """
        self._longest = longest
        self.num_rows = 0
        self.capacity = 0
        self.unseen = 0  # slots at the end that no forward sees, whatever is written there
        self._written = 0  # slots above are zero in all rows
        self.mapping = SlotMapping(torch.empty(0, 0, dtype=torch.int64), 0, 0, 0)
        self.slot_layers = [SlotLayer(self) for _ in range(num_layers)]
        self._flat: dict[tuple[int, bool], list[Tensor]] = {}  # of `buffers`
        super().__init__(layers=list(self.slot_layers))

    def reserve(self, num_rows: int, capacity: int) -> None:
        """Make room; capacity grows by doubling so that copies stay rare."""
        capacity = capacity and capacity + self.unseen
        has_room = num_rows <= self.num_rows and capacity <= self.capacity
        self.num_rows = max(self.num_rows, num_rows)
        if capacity > self.capacity:
            doubled = 2 * self.capacity
            self.capacity = max(capacity, min(doubled, self._longest or doubled))
        if not has_room:
            self._flat = {}
            for layer in self.slot_layers:
                layer.grow()

    @property
    def is_allocated(self) -> bool:
        """Whether a forward made the buffers."""
        return bool(self.slot_layers[0].buffers)

    @property
    def all_buffers(self) -> list[Tensor]:
        """Keys and values of every layer; empty before the first forward."""
        return [buffer for layer in self.slot_layers for buffer in layer.buffers]

    def buffers(self, first_row: int = 0, *, is_single: bool) -> list[Tensor]:
        """Those of all layers, two a layer, from a row on, or that row alone if `is_single`; none
        before the first forward."""
        key = first_row, is_single
        if key not in self._flat:
            rows = slice(first_row, first_row + 1 if is_single else None)
            if not self.is_allocated:
                return []
            self._flat[key] = [buffer[rows] for buffer in self.all_buffers]
        return self._flat[key]

    def write_at(self, mapping: SlotMapping) -> None:
        """The next forward goes there; room is made."""
        self.reserve(mapping.first_row + len(mapping.slots), mapping.kv_len)
        self._written = max(self._written, mapping.start + mapping.slots.shape[1])
        self.mapping = mapping

    def clear(self) -> None:
        """Forget everything and give the memory back; the next forward starts from zeros."""
        self.num_rows = self.capacity = self._written = 0
        self._flat = {}
        for layer in self.slot_layers:
            layer.buffers = []
            layer.keys = layer.values = None  # views of the buffers

    def copy_row(self, source: int, destination: int, length: int) -> None:
        """Row `destination` becomes the first `length` slots of row `source`, and zeros."""
        for buffer in self.all_buffers:
            buffer[destination, :, :length] = buffer[source, :, :length]
        self.wipe(destination, length)

    def move_slots(self, sources: Tensor, destinations: Tensor) -> None:
        """What lies in row b's slots sources[b] goes to its slots destinations[b]; both [B, n],
        rows from 0.  All are read before any is written.
        """
        if isinstance(self.mapping.slots, MovedOnce):
            sources, destinations = MovedOnce.of(sources), MovedOnce.of(destinations)
        for buffer in self.all_buffers:
            old, new = sources.to(buffer.device), destinations.to(buffer.device)
            rows = torch.arange(len(old), device=buffer.device)[:, None]
            buffer[rows, :, new] = buffer[rows, :, old]

    def wipe(self, row: int, length: int) -> None:
        """Zeros after the first `length` slots, where an earlier request may have left what is not
        a number: that would shine through masks.
        """
        for buffer in self.all_buffers:
            buffer[row, :, length : self._written] = 0
