"""Floors of forwards, the least time that they could take on this machine.  Their linear layers
have to read their weights and to multiply by them; all else is taken to cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from fly.engine.model.step_choice import fastest

SIDE = 1024  # of the square matrices whose product tells how fast products can be
MOST_BYTES = 1 << 28  # read to tell how fast memory can be


@dataclass(frozen=True)
class Floor:
    """Of the forwards of one model: its linear layers read their weights and multiply by them, as
    fast as this machine can."""

    read_s: float  # all weights once
    token_s: float  # a token's products, in a product of the best size

    def seconds(self, num_tokens: int) -> float:
        """Of a forward of so many tokens, of all rows."""
        return max(self.read_s, self.token_s * num_tokens)

    @classmethod
    @torch.inference_mode()
    def measure(cls, model: nn.Module) -> Floor:
        """Of a loaded model."""
        weights = linear_weights(model)
        num_bytes = sum(weight.nbytes for weight in weights)
        read = torch.ones(max(1, min(num_bytes, MOST_BYTES) // 4))
        square = torch.ones(SIDE, SIDE, dtype=getattr(model, "dtype", torch.float32))
        product_s = fastest(lambda: square @ square)
        per_token = sum(weight.numel() for weight in weights) * product_s / SIDE**3
        return cls(fastest(read.sum) * num_bytes / read.nbytes, per_token)


def linear_weights(model: nn.Module) -> list[Tensor]:
    """Matrices of its linear layers, of quantised ones what stands for them; none of embeddings."""
    found = []
    for part in model.modules():
        if isinstance(part, nn.Embedding) or any(part.children()):
            continue
        tensors = chain(part.parameters(recurse=False), part.buffers(recurse=False))
        matrices = [each.detach() for each in tensors if each.dim() == 2]
        if matrices:
            found.append(min(matrices, key=lambda each: each.nbytes))
    return found
