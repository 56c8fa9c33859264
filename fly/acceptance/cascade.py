"""Speculative cascade, token form: trust the draft with every token that the target finds likely
enough.  Source: arXiv 2405.19261.

Differs: the paper samples from a mixture of both models; this is the reduced form, which decides
only where native acceptance refuses and leaves corrections as they are.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores


class CascadeRule(LooseRule):
    """Keep d where p(d) >= (1 - alpha) p1; p behind all processors.  Lossy: alpha 0 still keeps a
    likeliest token that a draw refused.
    """

    alpha: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of the largest probability that d may lack. The paper tries many up to "
        "0.95 and names no default; ours is 0.2.",
    )

    def loosens(self, scores: Scores) -> Tensor:
        """Where the draft token is likely enough.  [B, K] bool."""
        return scores.p_draft >= (1 - self.alpha) * scores.p_best
