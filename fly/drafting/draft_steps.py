"""Steps of a draft model, each of one token, and what is read off its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fly.drafting.uploads import RowInts


def last_logits(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Of every row's first counts[b] logits [B, n, V] the last.  [B, 1, V]"""
    if min(counts) == logits.shape[1]:
        return logits[:, -1:]
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, RowInts.of(counts, logits.device).tensor - 1, None]


def confidence(logits: Tensor, token: Tensor, probs: Tensor | None) -> Tensor:
    """Probabilities of tokens [B, 1], from the logits [B, 1, V] or the distributions that they were
    drawn from.  [B]
    """
    probs = logits.float().softmax(-1) if probs is None else probs
    return probs.gather(-1, token[..., None])[:, 0, 0]


class DraftSteps(NamedTuple):
    """Tokens that a draft model decoded one after another."""

    tokens: Tensor  # [B, n] int64
    probs: Tensor | None  # [B, n, V] their distributions, where they were drawn
    confidence: Tensor | None  # [B, n] their probabilities, where they are wanted

    @classmethod
    def joined(cls, parts: Sequence[DraftSteps]) -> DraftSteps:
        """One after another."""
        if len(parts) == 1:
            return parts[0]
        tokens, *rest = zip(*parts, strict=True)
        probs, sure = (None if part[0] is None else torch.cat(part, 1) for part in rest)
        return cls(torch.cat(tokens, 1), probs, sure)
