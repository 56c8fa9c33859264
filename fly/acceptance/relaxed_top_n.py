"""Relaxed acceptance: keep a token among the target's likeliest few, not far below the first.
Source: TensorRT-LLM, which does so in the thinking phase (relaxed_topk, relaxed_delta; here with
`only_inside`).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores, among_top


class RelaxedTopNRule(LooseRule):
    """Keep d among the top N where p(d) >= p1 - delta; p behind all processors.  Lossy: N 1 and
    delta 0 still keep a likeliest token that a draw refused.

    The defaults are those that TensorRT-LLM recommends for DeepSeek-R1; its own are 1 and 0.
    """

    top_n: int = Field(10, ge=1, description="N: d must be one of so many likeliest tokens.")
    delta: float = Field(
        0.6, ge=0, le=1, description="How far p(d) may lie below the largest probability."
    )

    def loosens(self, scores: Scores) -> Tensor:
        """Where the draft token is near the top.  [B, K] bool."""
        is_near = scores.p_draft >= scores.p_best - self.delta
        return is_near & among_top(scores.probs, scores.ids, self.top_n)
