"""Attention on an accelerator, without copies of keys and values.  A model attends so while it is
served; its configuration is as it was before and after."""

# With an explicit mask transformers (4.57 to 5.23) repeats keys and values for each query head of a
# group, on CUDA whenever several tokens are read.  SDPA's own `enable_gqa` is no sure way out: with
# a mask it depends on torch's version which kernels take it (sdp_utils.cpp), and the plain one
# repeats them itself.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fly.engine.model.devices import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPED = "fly_grouped_sdpa"
# Where a configuration keeps its choice: setting the property would change nested ones, too.
_CHOICE = "_attn_implementation_internal"
# Arguments of transformers' function that change what it computes, beyond those handled here.
_OTHERS = ("position_bias", "softcap", "cache")


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """SDPA of a query [B, G x H, n, D] over keys and values [B, H, kv, D],
    with a mask [B, 1, n, kv] as queries [B, H, G x n, D].  Returns [B, n, G x H, D].

    What has no mask of this shape, or only one query a key, goes the usual way: without a mask the
    flash kernel takes groups as they are.
    """
    num_rows, num_heads, n, _ = query.shape
    groups = num_heads // key.shape[1]
    is_shared = attention_mask is not None and attention_mask.shape[1] == 1
    if groups == 1 or not is_shared or any(others.get(name) is not None for name in _OTHERS):
        usual: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return usual
    assert attention_mask is not None
    mask = attention_mask[..., : key.shape[2]]
    # For one token a view; for several a copy of G x n x kv numbers, which keys and values exceed
    # by 2 x H x D / (G x n): 16-fold in Llama 70B at K = 15.
    mask = mask.expand(-1, groups, -1, -1).reshape(len(mask), 1, groups * n, -1)
    output = nn.functional.scaled_dot_product_attention(
        query.reshape(num_rows, key.shape[1], groups * n, -1),
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return output.reshape(num_rows, num_heads, n, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def is_accelerated(device: torch.device) -> bool:
    """Whether to attend as an accelerator wants it: on a CPU the last bits of logits would change,
    and nothing would be gained.
    """
    return device.type not in ("cpu", "meta")


class ServedAttention:
    """A model's attention while it is served."""

    def __init__(self, model: PreTrainedModel, *, accelerated: bool) -> None:
        """Find what chooses the attention.

        Args:
            model: its modules may be shared with others, who see their own choice.
            accelerated: attend as an accelerator wants it, where the model can.
        """
        modules = parts(model) if accelerated else []
        configs = {id(part.config): part.config for part in modules if _chooses(part)}
        # Those that read the choice elsewhere than in the registry would not know ours.
        has_registry = any(getattr(part, "_supports_attention_backend", False) for part in modules)
        self._configs = list(configs.values()) if has_registry else []

    @property
    def takes_no_mask(self) -> bool:
        """Whether a plain causal forward may leave its mask out."""
        return bool(self._configs)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within, the model attends in groups."""
        before = [vars(config)[_CHOICE] for config in self._configs]
        for config in self._configs:
            vars(config)[_CHOICE] = GROUPED
        try:
            yield
        finally:
            for config, choice in zip(self._configs, before, strict=True):
                vars(config)[_CHOICE] = choice


def _chooses(part: nn.Module) -> bool:
    """Whether a module has a configuration that chooses SDPA."""
    config = vars(part).get("config")
    return hasattr(config, "model_type") and vars(config).get(_CHOICE) == "sdpa"
