"""Typical acceptance, which asks less where the target is less sure.  Source: Medusa, arXiv
2401.10774.  Differs: Medusa decides on every token so; here only on those that native acceptance
refuses."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores


class TypicalRule(LooseRule):
    """Keep d where p(d) > min(epsilon, delta exp(-H(p))); p after all processors.  Lossy."""

    epsilon: float = Field(
        0.09, gt=0, le=1, description="Keep d where p(d) is above this, however sure the target."
    )
    delta: float = Field(
        0.3,
        gt=0,
        description="Keep d where p(d) is above this times exp(-H); H is the entropy over the "
        "whole vocabulary in nats. Medusa: the square root of epsilon.",
    )

    def loosens(self, scores: Scores) -> Tensor:
        """Where the draft token is typical.  [B, K] bool."""
        entropy = scores.entropy("full", is_final=True)
        return scores.p_draft > (self.delta * torch.exp(-entropy)).clamp_max(self.epsilon)
