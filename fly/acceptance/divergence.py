"""Fuzzy speculative decoding (FSD), by divergence of target and draft.  Source: arXiv 2502.20704.
Differs: there the divergence alone decides; this is the reduced form, which decides only where
native acceptance refuses."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores


class DivergenceRule(LooseRule):
    """Keep any d where D(p, q) <= threshold; p and q after all processors, of greedy rows at
    temperature 1.  Lossless at threshold 0: there p is q, and native acceptance refuses nothing.
    """

    needs_draft_probs: ClassVar[bool] = True

    divergence: Literal["js", "kl", "tv"] = Field(
        "js",
        description="D: js, Jensen-Shannon in nats (0 to ln 2); kl, KL(p || q) in nats; tv, half "
        "the sum of |p - q| (0 to 1).",
    )
    threshold: float = Field(
        0.1, ge=0, description="The largest D that keeps d. The source sets it by task."
    )

    @property
    def is_lossless(self) -> bool:
        """At 0."""
        return self.threshold == 0

    def loosens(self, scores: Scores) -> Tensor:
        """Where the two distributions are close.  [B, K] bool."""
        found = scores.compare(lambda p, q: divergence(p, q.float(), self.divergence))
        # Without distributions nothing was proposed.
        return torch.zeros_like(scores.native) if found is None else found <= self.threshold


def divergence(p: Tensor, q: Tensor, kind: str) -> Tensor:
    """D(p, q) of distributions [..., V], as DivergenceRule names its kinds.  [...]"""
    if kind == "tv":
        return (p - q).abs().sum(-1) / 2
    if kind == "kl":
        return _relative_entropy(p, q)
    middle = (p + q) / 2
    return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """The sum of p ln(p / q); infinite where q excludes what p allows.  [...]"""
    return torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(-1)
