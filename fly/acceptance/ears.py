"""EARS, which favours the draft more the less sure the target is.  The uniform draw that decides is
moved in the draft's favour.  Source: arXiv 2512.13194; its authors' code in vllm-ascend, pull
request 7845."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores
from fly.settings import Temperatures


class EarsRule(LooseRule):
    """Keep where u - b (1 - max p) < p / q, p and q after all processors; q is 1 for a token that
    was not drawn.  The correction is native's."""

    temperatures: ClassVar[Temperatures] = "sampled"
    needs_law: ClassVar[bool] = True

    tolerance: float = Field(
        0.1, ge=0, le=1, description="b: at most so much is taken off u; 0 is native acceptance."
    )

    @property
    def is_lossless(self) -> bool:
        """At b = 0."""
        return self.tolerance == 0

    def loosens(self, scores: Scores) -> Tensor:
        """As LooseRule; nothing in greedy rows."""
        law = scores.law
        if law is None:
            return torch.zeros_like(scores.native)
        p, q = law.probabilities(scores.ids)
        unsure = 1 - law.p_best(scores.ids)  # [B, K]
        moved = law.uniform - self.tolerance * unsure
        return (moved * q < p) & (q > 0) & law.is_sampled[:, None]
