"""A transformers model with its slot cache.  It prefills prompts and extends every row by a few
tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fly.drafting import TreeMask
from fly.drafting.base import Choose, greedy, pad_right
from fly.drafting.draft_steps import DraftSteps, confidence
from fly.drafting.uploads import RowInts, is_awaited
from fly.engine.model.attention import ServedAttention, is_accelerated
from fly.engine.model.base import PREFILL_TOKENS, LoadedModel
from fly.engine.model.devices import MovedOnce, has_hooks
from fly.engine.model.graph import Step, StepCache, StepModule
from fly.engine.model.kv_cache import SlotCache, SlotMapping
from fly.engine.model.masks import MaskPlan, check_attention
from fly.engine.model.prefixes import MAX_PADDING, Span, chunks, plan_prefill
from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Slots after the longest text: its neighbours' proposals may be longer than its own.
SPARE_SLOTS = 64
# Of a prompt a step gives all logits, where only the last, if any, is asked for.  That is little
# where the vocabulary's product is such a share of all, or has so many multiplications for each
# layer's dispatch (200 us at 25 GFLOP/s); and so many logits are held at most.
SMALL_HEAD, SAVED_PRODUCTS, MOST_LOGITS = 0.05, 5_000_000, 1 << 24


class SlotModel(LoadedModel):
    """A causal language model with one cache row per row of the batch; slot = position."""

    # Attention sees a multiple of so many slots.  1 sees what there is: another length of keys
    # changes the last bits of logits and costs time.  Shapes that are captured ask for more.
    kv_bucket = 1
    # Slots reserved ahead for a row at most.  Longer budgets are seldom used up, so rows grow into
    # them; buffers that must not move ask for more.
    max_reserved = 512
    # Attention as an accelerator wants it (attention.py); None: where the model lies on one.
    accelerated: bool | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        common_vocab: int | None = None,
        *,
        share_prefixes: bool = True,
    ) -> None:
        """Wrap a loaded model; nothing of it is changed.

        Arguments as in LoadedModel.

        Raises:
            ModelError: its layers cannot be served by a slot cache.
        """
        if getattr(model, "_is_stateful", False):
            raise ModelError(
                f"{type(model).__name__} keeps a recurrent state, which a cache of one slot per "
                "position cannot roll back",
                fix="use a model whose layers are full or sliding attention, or lm-eval's own hf",
            )
        config = model.config.get_text_config()
        check_attention(config)
        super().__init__(model, common_vocab, share_prefixes=share_prefixes)
        self._masks = MaskPlan.from_config(config)
        self.cache = SlotCache(config.num_hidden_layers, self.num_positions)
        self._held: list[list[int]] = []  # per cache row the prompt that its slots begin with
        self._dtype = model.dtype  # asking the model walks through its parameters
        accelerated = self.accelerated
        if accelerated is None:
            accelerated = is_accelerated(self.device)
        self._attention = ServedAttention(model, accelerated=accelerated)
        self._is_spread = has_hooks(model)
        self.step_cache = StepCache()
        self._places = torch.empty(0, dtype=torch.int64)  # 0, 1, …

    def kv_len(self, end: int) -> int:
        """Slots that attention sees where the last position is `end` - 1."""
        return -(-end // self.kv_bucket) * self.kv_bucket

    def reserve(self, num_rows: int, longest: int) -> None:
        slots = min(longest, self.num_positions or longest, self.max_reserved) + SPARE_SLOTS
        self.cache.reserve(num_rows, self.kv_len(slots))

    def prefill(self, prompts: Sequence[list[int]], first_row: int) -> None:
        """Write prompts into rows `first_row` and following, from slot 0, a bounded number of
        tokens at a time.  Beginnings that other rows hold are copied.
        """
        self.cache.reserve(first_row + len(prompts), 0)
        self._held += [[] for _ in range(first_row - len(self._held))]
        if self._share_prefixes:
            waves = plan_prefill(self._held, prompts, first_row)
        else:
            waves = [[Span(row, row, 0, ids) for row, ids in enumerate(prompts, first_row)]]
        # Nothing is held until all of it is: an interrupted prefill leaves rows half written.
        self._held[first_row : first_row + len(prompts)] = [[] for _ in prompts]
        for wave in waves:
            for span in wave:
                if span.source == span.row:
                    self.cache.wipe(span.row, span.start)
                else:
                    self.cache.copy_row(span.source, span.row, span.start)
            # Every forward is launched and told its slots, which costs an accelerator more.
            padding = None if is_awaited(self.device) else MAX_PADDING
            for chunk in chunks(wave, PREFILL_TOKENS, padding):
                self._fill(chunk)
        self._held[first_row : first_row + len(prompts)] = map(list, prompts)

    def _fill(self, spans: Sequence[Span]) -> None:
        """Compute spans of consecutive rows, in pieces of equal width."""
        longest = max(len(span.ids) for span in spans)
        width = max(1, min(longest, PREFILL_TOKENS))
        for offset in range(0, longest, width):
            pieces = [span.ids[offset : offset + width] for span in spans]
            ids = pad_right(pieces, self.device)
            starts = [span.start + offset for span in spans]
            self._read(ids, starts, spans[0].row)

    def _read(self, ids: Tensor, starts: Sequence[int], first_row: int) -> None:
        """Write ids [B, n] of rows from `first_row` on; nobody asks for their logits."""
        num_rows, n = ids.shape
        step = self.step_cache.find(num_rows, n)
        if step is None or not self._may_give_logits(num_rows * n):
            self._extend(ids, starts, first_row=first_row, logits_to_keep=1)
            return
        if not self.cache.is_allocated:  # which a forward allocates
            self._extend(ids[:1, :1], starts[:1], first_row=first_row, logits_to_keep=1)
        self._run(step, ids, RowInts.of(starts, ids.device), first_row)

    def _may_give_logits(self, lines: int) -> bool:
        """Whether logits of so many tokens, which a step gives, cost less than what it saves."""
        size, share = self._head
        saved = SAVED_PRODUCTS * len(self.cache.slot_layers)
        return (share <= SMALL_HEAD or size * lines <= saved) and (
            lines * self.vocab_size <= MOST_LOGITS
        )

    @cached_property
    def _head(self) -> tuple[int, float]:
        """Weights of what makes logits, and their share of all."""
        weight = self.model.get_output_embeddings().weight
        return weight.numel(), weight.numel() / sum(
            each.numel() for each in self.model.parameters()
        )

    def extend(self, ids: Tensor, starts: Sequence[int]) -> Tensor:
        step = self.step_cache.find(*ids.shape)
        if step is None or not self.cache.is_allocated:
            return self._extend(ids, starts)
        return self._run(step, ids, RowInts.of(starts, ids.device))

    def _run(self, step: Step, ids: Tensor, starts: RowInts, first_row: int = 0) -> Tensor:
        """Logits [B, n, V]."""
        n = ids.shape[1]
        slots, buffers = self._make_room(starts, n, first_row)
        # A step knows its inputs by their addresses: what is viewed has to be copied.
        return step(ids.contiguous(), slots, self._places[: self.kv_len(max(starts) + n)], buffers)

    def _make_room(
        self, starts: RowInts, n: int, first_row: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """Slots [B, n] that steps are going to write, and the buffers, which stay where they are
        meanwhile."""
        num_rows, end = len(starts), max(starts) + n
        kv_len = self.kv_len(end)
        if kv_len > len(self._places):
            self._places = torch.arange(2 * kv_len, device=self.device)
        slots = starts.tensor[:, None] + self._places[:n]
        self.cache.reserve(first_row + num_rows, kv_len + 1)  # see Step
        self.cache.write_at(SlotMapping(slots, first_row, end - n, kv_len))
        return slots, self.cache.buffers(first_row, is_single=num_rows == 1)

    def steps(
        self,
        ids: Tensor,
        counts: Sequence[int],
        starts: Sequence[int],
        count: int,
        choose: Choose = greedy,
        before: Sequence[Tensor] = (),
        *,
        wants_confidence: bool = False,
    ) -> DraftSteps:
        starts = RowInts.of(starts, ids.device)
        is_one_by_one = choose is not greedy or count == 1 or not self.follows(len(ids))
        first = super().steps(
            ids,
            counts,
            starts,
            count if is_one_by_one else 1,
            choose,
            before,
            wants_confidence=wants_confidence,
        )
        if is_one_by_one:
            return first
        rest = self.follow(
            first.tokens, starts.plus(counts), count - 1, wants_confidence=wants_confidence
        )
        return DraftSteps.joined([first, *rest])

    def follows(self, num_rows: int) -> bool:
        """Whether `follow` is there for so many rows."""
        return self.step_cache.find(num_rows, 1) is not None

    def follow(
        self, tokens: Tensor, starts: RowInts, count: int, *, wants_confidence: bool
    ) -> list[DraftSteps]:
        """The greedy tokens after `tokens` [B, 1] at positions `starts`.  What the host prepares
        for a forward, it prepares once for all."""
        step = self.step_cache.find(len(tokens), 1)
        assert step is not None
        slots, buffers = self._make_room(starts, count)
        seen, found = max(starts), []
        for place, at in enumerate(slots.t()[..., None].contiguous().unbind(), start=1):
            logits = step(tokens, at, self._places[: self.kv_len(seen + place)], buffers)
            tokens = logits.argmax(-1)
            sure = confidence(logits, tokens, None)[:, None] if wants_confidence else None
            found.append(DraftSteps(tokens, None, sure))
        return found

    def without_cache(self) -> SlotModel:
        """The same model with a cache of its own, and without steps."""
        other = SlotModel(self.model, self._common_vocab, share_prefixes=False)
        other.view = self.view
        return other

    def step_module(self, view: PreTrainedModel) -> StepModule:
        """What `extend` computes, as a function to be compiled, by a view of the model."""
        num_layers = len(self.cache.slot_layers)
        return StepModule(view, self._masks, num_layers, self.num_positions, self._common_vocab)

    def extend_tree(self, ids: Tensor, starts: Sequence[int], tree: TreeMask) -> Tensor:
        return self._extend(ids, starts, tree=tree)

    def _extend(
        self,
        ids: Tensor,
        starts: Sequence[int],
        *,
        first_row: int = 0,
        tree: TreeMask | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits of ids [B, n], of rows from `first_row` on in the slots from starts[b] on.  0
        keeps all of them.
        """
        n, start = ids.shape[1], max(starts)
        slots = RowInts.of(starts, ids.device).tensor[:, None]
        if n > 1:
            slots = slots + torch.arange(n, device=ids.device)
        is_even = min(starts) == start
        is_whole = is_even and start == 0 and tree is None and self._attention.takes_no_mask
        kv_len = n if is_whole else self.kv_len(start + n)
        written = MovedOnce.of(slots) if self._is_spread else slots
        self.cache.write_at(SlotMapping(written, first_row, start, kv_len, is_even))
        positions = slots
        mask: Any
        if is_whole:
            mask = self._masks.build_causal(positions, self._dtype)
        elif tree is None:
            mask = self._masks.build(positions, kv_len, self._dtype)
        else:
            roots = slots[:, 0] - (tree.seen.shape[1] - n)
            positions = roots[:, None] + tree.depths[:, -n:]
            mask = self._masks.build_tree(tree, roots, n, kv_len, self._dtype)
        return self._forward(ids, positions, mask, logits_to_keep)

    def _forward(
        self, ids: Tensor, positions: Tensor, mask: Any, logits_to_keep: int = 0
    ) -> Tensor:
        """Logits of ids [B, n], which are written where the cache was told."""
        if self.num_positions is not None:
            # Learned position tables end somewhere; what lies after is padding and never counts.
            positions = positions.clamp_max(self.num_positions - 1)
        inputs: dict[str, Any] = {
            "input_ids": ids.clamp_max(self._common_vocab - 1),
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = logits_to_keep
        if self._is_spread:
            inputs["attention_mask"] = _moved_once(mask)
        with self._attention():
            logits: Tensor = self.view(**inputs).logits
        return logits[..., : self._common_vocab]

    def keep_slots(self, sources: Tensor, destinations: Tensor) -> None:
        self.cache.move_slots(sources, destinations)

    def move(self, source: int, destination: int, length: int) -> None:
        self.cache.copy_row(source, destination, length)
        self._held[destination] = self._held[source]

    def clear(self) -> None:
        self.cache.clear()
        self._held = []


def _moved_once(mask: Any) -> Any:
    """A mask, or the masks by layer type, of which every device keeps one copy."""
    if isinstance(mask, dict):
        return {kind: _moved_once(each) for kind, each in mask.items()}
    return mask if mask is None else MovedOnce.of(mask)
