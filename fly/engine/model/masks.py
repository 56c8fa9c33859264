"""Attention masks from positions, and the last position of a model.  Key slot s holds position s,
so the query at position p sees the slots s <= p and, in a sliding layer, only those with s > p -
window.  The tokens of a tree lie in slots in an order of their own."""

# Masks are additive: boolean ones are silently wrong on eager attention, and minus infinity turns a
# fully masked row into NaN.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fly.drafting import TreeMask
from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ALIBI_TYPES = ("bloom", "mpt")
FULL, SLIDING = "full_attention", "sliding_attention"
MASKED_ATTENTION = ("sdpa", "eager")  # take an additive mask [B, 1, n, kv_len]


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


def num_positions(config: PretrainedConfig) -> int | None:
    """Positions at which an answer cannot depend on its neighbours; None where there is no limit.

    Rotary frequencies of two kinds depend on the longest position in a forward, which ragged rows
    share (transformers, modeling_rope_utils.dynamic_rope_update).  "dynamic" ones grow with it
    after max_position_embeddings; "longrope" changes from the short to the long factors after
    original_max_position_embeddings.  Up to there they are fixed, so there such a model's context
    ends.

    Args:
        config: the text model's.
    """
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope: dict[str, Any] = (
        getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    )
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    limits = [limit]
    for part in (rope, *by_layer_type):
        kind = part.get("rope_type", part.get("type")) or ""
        if kind == "longrope":
            # transformers 5 reads the first, 4 the second, and the config's own limit if need be.
            limits.append(part.get("original_max_position_embeddings"))
            limits.append(getattr(config, "original_max_position_embeddings", None))
    return min((each for each in limits if each is not None), default=None)


@dataclass(frozen=True)
class MaskPlan:
    """Kind of masks that an architecture takes: one for all layers, or a dict by layer type."""

    windows: dict[
        str, int | None
    ]  # layer type -> tokens that it sees, its own included; None for all
    by_layer_type: bool

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> MaskPlan:
        """Read layer_types and sliding_window.

        Raises:
            ModelError: a layer keeps a recurrent state or attends in a way that slots cannot serve.
        """
        if config.model_type in ALIBI_TYPES or getattr(config, "alibi", False):
            raise ModelError(
                f"model type {config.model_type!r} takes its positions from ALiBi, which reads the "
                "mask and not the position ids that ragged batches need",
                fix="use a model with rotary or learned positions, or lm-eval's own hf",
            )
        layer_types = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None)
        if not getattr(config, "use_sliding_window", True):
            window = None
        kinds = set(layer_types or [SLIDING if window else FULL])
        # GPT-Neo cuts local attention by the cache's length, which ragged rows do not share.
        kinds |= set(getattr(config, "attention_layers", None) or ()) - {"global"}
        unknown = kinds - {FULL, SLIDING}
        if unknown:
            raise ModelError(
                f"model type {config.model_type!r} has layers of type {', '.join(sorted(unknown))},"
                " which a cache of one slot per position cannot roll back",
                fix="use a model whose layers are full or sliding attention, or lm-eval's own hf",
            )
        windows = {kind: window if kind == SLIDING else None for kind in sorted(kinds)}
        return cls(windows, by_layer_type=len(kinds) > 1)

    def build(
        self, positions: Tensor, kv_len: int, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Masks [B, 1, n, kv_len] for queries at positions [B, n]."""
        slots = torch.arange(kv_len, device=positions.device)
        query = positions[:, None, :, None]  # [B, 1, n, 1]
        return self._masks(slots <= query, query, slots, dtype)

    def build_causal(
        self, positions: Tensor, dtype: torch.dtype
    ) -> Tensor | Mapping[str, Tensor | None] | None:
        """The same for texts that begin in slot 0 and attend to themselves alone, with no mask
        where attention is plainly causal, so that a kernel without masks may run.
        """
        n = positions.shape[1]
        whole = {kind for kind, window in self.windows.items() if window is None or n < window}
        if not self.by_layer_type:
            return None if whole else self.build(positions, n, dtype)
        if whole == set(self.windows):
            return dict.fromkeys(whole)
        masks = self.build(positions, n, dtype)
        assert isinstance(masks, dict)
        return {kind: None if kind in whole else mask for kind, mask in masks.items()}

    def build_tree(
        self, tree: TreeMask, starts: Tensor, n: int, kv_len: int, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Masks [B, 1, n, kv_len] for the last `n` tokens of trees whose first is at position, and
        in slot, starts[b] [B].  A token sees the text below and what it follows; a sliding window
        goes by positions.
        """
        places = torch.arange(tree.seen.shape[1], device=starts.device)
        slots = torch.arange(kv_len, device=starts.device)
        held = starts[:, None] + places  # [B, T] slots of the trees' tokens
        depths = tree.depths
        keys = slots.repeat(len(starts), 1).scatter(1, held, starts[:, None] + depths)
        seen = (slots < starts[:, None])[:, None].repeat(1, n, 1)  # [B, n, kv_len]
        newest = tree.seen[:, -n:]
        seen = seen.scatter(2, held[:, None].expand_as(newest), newest)
        query = (starts[:, None] + depths[:, -n:])[:, None, :, None]
        return self._masks(seen[:, None], query, keys[:, None, None], dtype)

    def _masks(
        self, seen: Tensor, query: Tensor, keys: Tensor, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """From what is seen without windows, and the positions of queries and keys."""
        seen_as = torch.zeros((), dtype=dtype, device=seen.device)
        masks = {}
        for kind, window in self.windows.items():
            keep = seen if window is None else seen & (keys > query - window)
            masks[kind] = torch.where(keep, seen_as, torch.finfo(dtype).min)
        return masks if self.by_layer_type else next(iter(masks.values()))
