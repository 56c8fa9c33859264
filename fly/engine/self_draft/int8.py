"""Linear layers in 8 bits, weights and activations.  Weights are quantised once, with a scale for
every output; activations as they come, with a scale for every token; the product is one of
integers.  torch's own tools (torch.ao.quantization) are deprecated, so only the product is torch's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fly.engine.self_draft.model_view import view_of
from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST = 127  # of a quantised number's size; -128 is left out, so that signs are alike
# CUDA multiplies integers only for so many rows, and for sizes that this divides.
CUDA_ROWS, CUDA_STEP = 32, 8


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest whole numbers of -127 to 127 and the scale of every row: [n, m] int8, [n, 1]
    float32.
    """
    values = values.float()
    scale = values.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return (values / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer in 8 bits, equal to the original within half a step of 1/127 of a row's
    largest number."""

    whole: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise a weight [out, in]; it and the bias [out] are shared, for those who look at the
        layer instead of calling it.
        """
        super().__init__()
        whole, scale = quantise(weight)
        self.register_buffer("whole", whole)
        self.register_buffer("scale", scale[:, 0])
        self.weight = weight
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype that comes in."""
        rows, scale = quantise(states.reshape(-1, states.shape[-1]))
        count = len(rows)
        if rows.is_cuda and count < CUDA_ROWS:
            rows = nn.functional.pad(rows, (0, 0, 0, CUDA_ROWS - count))
        product: Tensor = torch._int_mm(rows, self.whole.t())[:count] * scale * self.scale
        if self.bias is not None:
            product = product + self.bias
        return product.to(states.dtype).view(*states.shape[:-1], len(self.whole))


def _quantised(module: nn.Module) -> Int8Linear | None:
    """What stands in the place of a linear layer; None for all others."""
    if type(module) is nn.Linear:
        weight = module.weight
    elif type(module) is Conv1D:
        weight = module.weight.t()
    else:
        return None
    if weight.is_cuda and any(size % CUDA_STEP for size in weight.shape):
        return None
    if not weight.is_floating_point():
        return None
    return Int8Linear(weight, module.bias)


@torch.no_grad()
def in_int8(model: PreTrainedModel) -> PreTrainedModel:
    """A view whose linear layers, the output head included, are copies in 8 bits; all else is
    shared.

    Raises:
        ModelError: it has no such layers, or see `view_of`.
    """
    view = view_of(model, _quantised)
    if not any(isinstance(module, Int8Linear) for module in view.modules()):
        raise ModelError(
            f"{type(model).__name__} has no linear layers that can be quantised",
            fix="choose another drafter",
        )
    return view
