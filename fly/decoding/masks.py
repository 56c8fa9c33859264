"""Attention masks from positions.  Key slot s holds position s, so the query at position p sees the
slots s <= p and, in a sliding layer, only those with s > p - window.  Masks are additive: boolean
ones are silently wrong on eager attention, and minus infinity turns a fully masked row into NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ALIBI_TYPES = ("bloom", "mpt")
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class MaskPlan:
    """Which masks an architecture takes: one for all layers, or a dict by layer type."""

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
        self, positions: Tensor, visible: int, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Masks [B, 1, n, visible] for queries at positions [B, n]."""
        slots = torch.arange(visible, device=positions.device)
        query = positions[:, None, :, None]  # [B, 1, n, 1]
        seen = slots <= query
        seen_as = torch.zeros((), dtype=dtype, device=positions.device)
        masks = {}
        for kind, window in self.windows.items():
            keep = seen if window is None else seen & (slots > query - window)
            masks[kind] = torch.where(keep, seen_as, torch.finfo(dtype).min)
        return masks if self.by_layer_type else next(iter(masks.values()))
