"""MARS, which keeps a second choice whose logit is nearly the first's.  A ratio of logits changes
when the same number is added to all of them.  It means nothing where the largest is not above 0:
there nothing is loosened.  Source: arXiv 2601.15498."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores


class MarsRule(LooseRule):
    """Keep d among the two largest raw logits where z(d) / z1 > threshold and z1 > 0.  Lossless at
    threshold 1, else lossy.  Above temperature 0 this keeps the first choice too.
    """

    threshold: float = Field(
        0.9, gt=0, le=1, description="Keep the second choice where z2 / z1 is above this."
    )

    @property
    def is_lossless(self) -> bool:
        """No logit is above the largest."""
        return self.threshold == 1

    def loosens(self, scores: Scores) -> Tensor:
        """Where the draft token is nearly the first choice.  [B, K] bool."""
        best = scores.top_logits[..., 0]
        is_near = (scores.draft_logit > self.threshold * best) & (best > 0)
        return is_near & scores.among_top(2, is_raw=True)
