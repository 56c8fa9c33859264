"""Reduction of lines of logits in one pass, by a Triton kernel or a twin.  On an
accelerator with Triton the kernel reads every logit once; the twin goes over pieces that stay in a
processor's cache.  Neither writes anything of the tables' size."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_TOP = 3  # largest logits that are known of a line
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # that the kernel reads
# The largest of so many logits at a time is one vectorised read (1.4 reads for the argmax of
# 128,256 float32 logits; torch's own takes 8.5).  Shorter lines gain nothing.
BLOCK = 256
LEAST_BLOCKS = 16
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True, eq=False)
class Summary:
    """Lines of logits, each reduced to a few numbers.  Those of a line with a NaN are NaN."""

    # [..., 5] float32: the three largest, -inf where there are fewer; ln of the sum of
    # exp(x - largest); the entropy in nats, 0 where nobody asked for it.
    values: Tensor

    @property
    def top(self) -> Tensor:
        """The three largest logits.  [..., 3]"""
        return self.values[..., :NUM_TOP]

    @property
    def best(self) -> Tensor:
        """The largest logit.  [...]"""
        return self.values[..., 0]

    @property
    def log_sum(self) -> Tensor:
        """The ln of the sum of exp(x - best).  NaN where the best is not finite.  [...]"""
        return self.values[..., 3]

    @property
    def p_best(self) -> Tensor:
        """The largest probability.  [...]"""
        return (-self.log_sum).exp()

    def p_of(self, logits: Tensor) -> Tensor:
        """The probability of tokens with these logits, one of each line.  [...]"""
        # In two steps, as log_softmax: best + log_sum would round off small differences.
        return ((logits.float() - self.best) - self.log_sum).exp()

    def entropy(self, kind: str, vocab_size: int) -> Tensor:
        """As Scores.entropy names its kinds.  [...]"""
        if kind == "top3":
            return _sum_of_entropies((self.top - self.best[..., None]) - self.log_sum[..., None])
        whole = self.values[..., 4]
        return whole / math.log(vocab_size) if kind == "normalised" else whole


def _sum_of_entropies(log_probs: Tensor) -> Tensor:
    """Minus the sum of p ln p.  [..., n] -> [...]"""
    # A forbidden token has log p = -inf and contributes nothing; without the clamp it would be
    # 0 * -inf = NaN.
    return -(log_probs.exp() * log_probs.clamp_min(_LOWEST)).sum(-1)


def kernel_for(logits: Tensor) -> ModuleType | None:
    """The kernel's module, where it serves these logits."""
    if logits.device.type != "cuda" or logits.dtype not in DTYPES:
        return None
    return _found_kernel()


def find_kernel() -> ModuleType | None:
    """The kernel's module; None without Triton, or with one that cannot be used here."""
    try:
        return importlib.import_module("fly.acceptance.fused_kernel")
    except (ImportError, AttributeError, RuntimeError):
        return None


_found_kernel = cache(find_kernel)


def likeliest(logits: Tensor) -> Tensor:
    """The argmax of every line [..., V]: the first NaN, else the first of the largest.  [...]"""
    if not _in_blocks(logits):
        return logits.argmax(-1)
    block = _largest_of_blocks(logits).argmax(-1, keepdim=True)
    found, ids = _of_blocks(logits, block)
    likeliest: Tensor = ids.gather(-1, found.argmax(-1, keepdim=True))[..., 0]
    return likeliest


def summary_of(logits: Tensor, *, with_entropy: bool = False) -> Tensor:
    """The twin: Summary.values of logits [..., V], the entropy where it is asked for.  [..., 5]"""
    log_probs = logits.float().log_softmax(-1)
    top, ids = _largest_three(logits)
    log_sum = -log_probs.gather(-1, ids[..., :1])
    entropy = _sum_of_entropies(log_probs)[..., None] if with_entropy else log_sum.new_zeros(1)
    top = torch.where(top[..., :1].isnan(), torch.nan, top.float())
    return torch.cat([top, log_sum, entropy.expand_as(log_sum)], -1)


def _largest_three(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The three largest of every line, -inf where there are fewer, NaN being the largest; and the
    ids that there are.  [..., 3] and [..., 3]
    """
    if _in_blocks(logits):
        # They lie in the three blocks that have the largest heads.
        blocks = _largest_of_blocks(logits).topk(NUM_TOP, dim=-1).indices
        found, ids = _of_blocks(logits, blocks)
        top, places = found.topk(NUM_TOP, dim=-1)
        return top, ids.gather(-1, places)
    top, ids = logits.topk(min(NUM_TOP, logits.shape[-1]), dim=-1)
    return F.pad(top, (0, NUM_TOP - top.shape[-1]), value=-torch.inf), ids


def _in_blocks(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.shape[-1] >= LEAST_BLOCKS * BLOCK


def _largest_of_blocks(logits: Tensor) -> Tensor:
    """[..., V] -> [..., blocks], the last one of what is left."""
    whole = logits.shape[-1] // BLOCK * BLOCK
    blocks: Tensor = logits[..., :whole].unflatten(-1, (-1, BLOCK))
    largest = blocks.amax(-1)
    if whole == logits.shape[-1]:
        return largest
    return torch.cat([largest, logits[..., whole:].amax(-1, keepdim=True)], -1)


def _of_blocks(logits: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """All logits of some blocks [..., n], -inf after the last, and their ids.  [..., n * BLOCK]"""
    steps = torch.arange(BLOCK, device=logits.device)
    ids = (blocks[..., None] * BLOCK + steps).flatten(-2)
    is_there = ids < logits.shape[-1]
    ids = ids.clamp_max(logits.shape[-1] - 1)
    return logits.gather(-1, ids).masked_fill(~is_there, -torch.inf), ids
