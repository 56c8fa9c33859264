"""Protocol of a model, whatever its kind of cache.  Rows are kept in slots (slots.py), in a cache
for each row or as texts only (per_row.py)."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fly.drafting.base import DraftModel, TreeModel
from fly.engine.model.masks import num_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@runtime_checkable
class CausalModel(DraftModel, Protocol):
    """A language model behind the engine's interface; target and draft alike."""

    vocab_size: int  # ids that it has

    def clear(self) -> None:
        """Forget all rows."""
        ...


@runtime_checkable
class TreeVerifier(CausalModel, TreeModel, Protocol):
    """One that can verify trees."""

    def keep_slots(self, sources: Tensor, destinations: Tensor) -> None:
        """What lies in row b's slots sources[b] goes to its slots destinations[b]; both [B, n]."""
        ...


# Prompt tokens in one prefill forward, padding included: bounds activations without starving a GPU.
PREFILL_TOKENS = 4096


def execution_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its ids and gives its logits."""
    device = model.device
    if device.type != "meta":
        return device
    # Offloaded: accelerate's hook holds where the weights are brought to run.
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


class LoadedModel(CausalModel):
    """A transformers model behind the engine's interface; kinds of cache add how rows are kept."""

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
            common_vocab: for a draft, the target's vocabulary size; ids that only one of them has
                (padding of the embedding) are neither proposed nor looked up.
            share_prefixes: copy what prompts have in common instead of computing it again, where
                the cache allows it.
        """
        config = model.config.get_text_config()
        self.model = model
        self.view = model  # what runs: the model, or a view of it with other layers (packed.py)
        self.vocab_size: int = config.vocab_size
        self.num_positions = num_positions(config)
        self._common_vocab = min(self.vocab_size, common_vocab or self.vocab_size)
        self._share_prefixes = share_prefixes
        self._takes = forward_parameters(model)

    @property
    def device(self) -> torch.device:
        """Where ids go and logits come from."""
        return execution_device(self.model)
