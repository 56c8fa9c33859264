"""Models without a cache: every forward reads a row's whole text again, at batch 1.  For those that
have no cache, or none that can be used without `generate`.  Nothing can be wrong about a text that
was taken back, and a round of several tokens costs one reading like a single token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fly.decoding.base import forward_parameters, read_whole
from fly.decoding.rowwise import CachedRow, RowModel
from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Caches of models (Reformer, XLNet, XLM) whose long texts are not read as short ones are.
OTHER_CACHES = frozenset({"past_buckets_states", "mems", "cache"})


class UncachedModel(RowModel):
    """A causal language model that keeps the rows' texts and nothing else."""

    def __init__(self, model: PreTrainedModel, *args: Any, **options: Any) -> None:
        """Wrap a loaded model; arguments as in LoadedModel.

        Raises:
            ModelError: it has a cache of a kind that is not known here.
        """
        unknown = OTHER_CACHES.intersection(forward_parameters(model))
        if unknown:
            raise ModelError(f"{type(model).__name__} has a cache of its own kind, {min(unknown)}")
        super().__init__(model, *args, is_plain=True, **options)

    @torch.no_grad()
    def _read(self, row: CachedRow, start: int) -> Tensor:
        text = torch.tensor([row.known], device=self.device).clamp_max(self._common_vocab - 1)
        logits = read_whole(self.model, text, len(row.known) - start)
        return logits[0, :, : self._common_vocab]
