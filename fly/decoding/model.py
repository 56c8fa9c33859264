"""One transformers model and its slot cache: prefill prompts, extend every row by a few tokens."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fly.decoding.cache import SlotCache, Write
from fly.decoding.masks import MaskPlan
from fly.decoding.positions import num_positions
from fly.decoding.prefixes import Span, chunks, plan_prefill
from fly.drafting import Lineage
from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Prompt tokens in one prefill forward, padding included: bounds activations without starving a GPU.
PREFILL_TOKENS = 4096


MASKED_ATTENTION = ("sdpa", "eager")  # take an additive mask [B, 1, n, visible]


def check_attention(config: PretrainedConfig) -> None:
    """Refuse attention that would be silently wrong in a ragged batch.

    Raises:
        ModelError: the kernel takes no mask of ours.
    """
    kernel = getattr(config, "_attn_implementation", None)
    if kernel is not None and kernel not in MASKED_ATTENTION:
        raise ModelError(
            f"attn_implementation is {kernel!r}, which does not take the masks of ragged batches",
            fix=f"load the model with attn_implementation {' or '.join(MASKED_ATTENTION)}",
        )


def execution_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its ids and gives its logits."""
    device = model.device
    if device.type != "meta":
        return device
    # Offloaded: accelerate's hook knows where the weights are brought to run.
    hook = getattr(model, "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or "cpu")


def forward_parameters(model: PreTrainedModel) -> Collection[str]:
    """Names that a model's forward takes; behind an adapter, those of the model itself."""
    base = getattr(model, "get_base_model", lambda: model)()
    return inspect.signature(base.forward).parameters


def read_whole(model: PreTrainedModel, ids: Tensor, keep: int = 0) -> Tensor:
    """Logits of texts [B, T] from one forward that uses no cache: [B, T, V], or of the last `keep`
    tokens only.  What an adapter puts before the text is left out.
    """
    takes = forward_parameters(model)
    offered: dict[str, Any] = {"use_cache": False, "logits_to_keep": keep}
    options = {name: value for name, value in offered.items() if name in takes}
    logits: Tensor = model(input_ids=ids, **options).logits
    return logits[:, -(keep or ids.shape[1]) :]


class SlotModel:
    """A causal language model with one cache row per row of the batch; slot = position."""

    def __init__(
        self,
        model: PreTrainedModel,
        common_vocab: int | None = None,
        *,
        share_prefixes: bool = True,
    ) -> None:
        """Wrap a loaded model; nothing of it is changed.

        Args:
            model: a causal language model.
            common_vocab: for a draft, the target's vocabulary size; ids that only one of them knows
                (padding of the embedding) are neither proposed nor looked up.
            share_prefixes: copy what prompts have in common instead of computing it again.

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
        self.model = model
        self._masks = MaskPlan.from_config(config)
        self.num_positions = num_positions(config)
        self.cache = SlotCache(config.num_hidden_layers, self.num_positions)
        self._share_prefixes = share_prefixes
        self._held: list[list[int]] = []  # per cache row the prompt that its slots begin with
        self.vocab_size: int = config.vocab_size
        self._common_vocab = min(self.vocab_size, common_vocab or self.vocab_size)
        self._dtype = model.dtype  # asking the model walks through its parameters
        takes = forward_parameters(model)
        self._keeps_logits = "logits_to_keep" in takes

    @property
    def device(self) -> torch.device:
        """Where ids go and logits come from."""
        return execution_device(self.model)

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
            for chunk in chunks(wave, PREFILL_TOKENS):
                self._fill(chunk)
        self._held[first_row : first_row + len(prompts)] = map(list, prompts)

    def _fill(self, spans: Sequence[Span]) -> None:
        """Compute spans of consecutive rows, in pieces of equal width."""
        width = max(1, min(max(len(span.ids) for span in spans), PREFILL_TOKENS))
        is_even = len({span.start for span in spans}) == 1
        for offset in range(0, max(len(span.ids) for span in spans), width):
            pieces = [span.ids[offset : offset + width] for span in spans]
            size = max(map(len, pieces))
            ids = torch.tensor(
                [[*piece, *[0] * (size - len(piece))] for piece in pieces], device=self.device
            )
            starts = [span.start + offset for span in spans]
            self._forward(
                ids,
                torch.tensor(starts, device=self.device),
                max(starts) + size,
                spans[0].row,
                is_even=is_even,
                logits_to_keep=1,
            )

    def extend(self, ids: Tensor, starts: Tensor, visible: int) -> Tensor:
        """Run ids [B, n] of rows 0 to B-1 at positions starts[b] .. starts[b]+n-1; logits [B, n,
        V].

        `visible` bounds all these positions, tightly where there is a single row; it comes from the
        host so that nothing waits for the device.
        """
        return self._forward(ids, starts, visible, 0, is_even=len(ids) == 1, logits_to_keep=0)

    def extend_tree(self, ids: Tensor, starts: Tensor, visible: int, lineage: Lineage) -> Tensor:
        """Run ids [B, n], the last tokens of trees of T, in slots starts[b] .. starts[b]+n-1 of
        rows 0 to B-1; logits [B, n, V] (TreeModel).
        """
        n, size = ids.shape[1], lineage.seen.shape[1]
        roots = starts - (size - n)
        self.cache.reserve(len(ids), visible)
        positions = roots[:, None] + lineage.depths[:, -n:]
        mask = self._masks.build_tree(lineage, roots, n, visible, self._dtype)
        write = self._write(ids, starts, visible, 0, is_even=len(ids) == 1)
        return self._run(ids, positions, mask, write, logits_to_keep=0)

    def _write(
        self, ids: Tensor, starts: Tensor, visible: int, first_row: int, *, is_even: bool
    ) -> Write:
        """Ids [B, n] go to the slots from starts[b] on."""
        slots = starts[:, None] + torch.arange(ids.shape[1], device=ids.device)  # [B, n]
        rows = torch.arange(first_row, first_row + ids.shape[0], device=ids.device)[:, None]
        return Write(rows, slots, first_row, visible, is_even)

    def _forward(
        self,
        ids: Tensor,
        starts: Tensor,
        visible: int,
        first_row: int,
        *,
        is_even: bool,
        logits_to_keep: int,
    ) -> Tensor:
        self.cache.reserve(first_row + ids.shape[0], visible)
        write = self._write(ids, starts, visible, first_row, is_even=is_even)
        mask = self._masks.build(write.slots, visible, self._dtype)
        return self._run(ids, write.slots, mask, write, logits_to_keep=logits_to_keep)

    def _run(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | dict[str, Tensor],
        write: Write,
        *,
        logits_to_keep: int,
    ) -> Tensor:
        self.cache.write = write
        # Learned position tables end somewhere; what lies behind is padding and never counts.
        known = (
            positions if self.num_positions is None else positions.clamp_max(self.num_positions - 1)
        )
        options: dict[str, Any] = {"logits_to_keep": logits_to_keep} if self._keeps_logits else {}
        output = self.model(
            input_ids=ids.clamp_max(self._common_vocab - 1),
            attention_mask=mask,
            position_ids=known,
            past_key_values=self.cache,
            use_cache=True,
            **options,
        )
        logits: Tensor = output.logits
        return logits[..., : self._common_vocab]

    def keep_slots(self, sources: Tensor, destinations: Tensor) -> None:
        """See TreeVerifier."""
        self.cache.move_slots(sources, destinations)

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` slots of one row over another."""
        self.cache.copy_row(source, destination, length)
        self._held[destination] = self._held[source]

    def clear(self) -> None:
        """Give up all rows and their memory."""
        self.cache.clear()
        self._held = []
