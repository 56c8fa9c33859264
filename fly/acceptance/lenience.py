"""Lenience, which lets the draft's probability count for less.  No token is drawn more than 1/l
times as often as the target would draw it.  At temperature 0 its form is p(d) >= l max p.  The
recovered token is native's.  Source: Leviathan et al., arXiv 2211.17192, appendix (lenience)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores


class LenienceRule(LooseRule):
    """Sampled rows keep where u < p / (l q), greedy ones where p(d) >= l max p, p at temperature 1;
    q is 1 for a token that was not drawn."""

    needs_law: ClassVar[bool] = True

    lenience: float = Field(
        0.5, gt=0, le=1, description="l: what q is multiplied by; 1 is native acceptance."
    )

    @property
    def is_lossless(self) -> bool:
        """At l = 1."""
        return self.lenience == 1

    def loosens(self, scores: Scores) -> Tensor:
        greedy = scores.p_draft >= self.lenience * scores.p_best
        law = scores.law
        if law is None:
            return greedy
        p, q = law.probabilities(scores.ids)
        sampled = (law.uniform * q * self.lenience < p) & (q > 0)
        return torch.where(law.is_sampled[:, None], sampled, greedy)
