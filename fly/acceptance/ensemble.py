"""Static ensemble, which accepts by a mixture of target and draft.  The mixture is v = w p + (1 -
w) q.  Sources: arXiv 2604.07622 (the static ensemble); transformers 5, `assistant_ensemble_weight`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fly.acceptance.base import LooseRule
from fly.acceptance.scores import Scores


class EnsembleRule(LooseRule):
    """Sampled rows keep where u < 1 - w + w p / q; greedy ones where d is the argmax of v, made of
    the distributions at temperature 1.

    The residual of v is that of p, so a sampled token in a proposal's place follows v exactly.  The
    exception are tokens that the target cannot emit at all: what v gives to them goes to the
    residual.

    Differs from transformers where nothing is drawn: there a refusal is followed by the argmax of
    v, here, as everywhere, by the target's own.

    As in transformers it needs the draft's distributions: of a token that was only looked up v
    would mean nothing but that it was looked up.
    """

    needs_draft_probs: ClassVar[bool] = True
    needs_law: ClassVar[bool] = True

    weight: float = Field(
        0.8,
        gt=0,
        le=1,
        description="w: the target's share in the distribution that is sampled; 1 is native "
        "acceptance.",
    )

    @property
    def is_lossless(self) -> bool:
        """At w = 1."""
        return self.weight == 1

    def loosens(self, scores: Scores) -> Tensor:
        greedy = self._greedy(scores)
        law = scores.law
        if law is None:
            return greedy
        p, q = law.probabilities(scores.ids)
        sampled = (law.uniform * q < (1 - self.weight) * q + self.weight * p) & (q > 0)
        return torch.where(law.is_sampled[:, None], sampled, greedy)

    def _greedy(self, scores: Scores) -> Tensor:
        """Where d is the argmax of v.  [B, K] bool."""
        w = self.weight
        best = scores.compare(lambda p, q: (w * p + (1 - w) * q).argmax(-1))
        # Without distributions nothing was proposed.
        return torch.zeros_like(scores.native) if best is None else scores.ids == best
