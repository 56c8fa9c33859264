"""Margin: keep a token that the target likes nearly as much as its favourite.  Two spellings, one
for each source: a gap between log-probabilities of the raw logits, with an optional window
(llama.cpp, discussion 24804), or a ratio of probabilities behind the processors (vLLM #22238,
#43184).

Differs: above temperature 0 llama.cpp measures the gap to the token that its sampler drew, which
may be less likely than the draft's; here it is always the gap to the likeliest.  Its other gate,
which takes over where the gap is 0, is left out: 0 switches the rule off.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fly.acceptance.base import Decision, LooseRule
from fly.acceptance.scores import Scores, among_top

DEFAULT_GAP = 0.3  # llama.cpp's recommendation
# Of a proposal no longer than the window, llama.cpp keeps a mismatch only where the likeliest token
# is less than this many times as likely as the second.
SHORT_RATIO = 2.0


class MarginRule(LooseRule):
    """Lossy, unless max_gap is 0.  A gap of exactly max_gap is refused, a ratio of exactly `ratio`
    kept, each as in its source.
    """

    max_gap: float | None = Field(
        None,
        ge=0,
        description="Keep d where ln p1 - ln p(d) is below this, in nats, from raw logits; p1 is "
        "the largest probability. Null: 0.3, unless ratio is given.",
    )
    ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description="In place of max_gap: keep d where p(d) is at least this times p1, behind all "
        "processors.",
    )
    top_n: int | None = Field(
        None, ge=1, description="Keep d only if it is one of so many likeliest tokens; null: any."
    )
    window: int | None = Field(
        None,
        ge=1,
        description="llama.cpp's W: the W tokens behind d must be native matches. Null: no window.",
    )

    @model_validator(mode="after")
    def _has_one_spelling(self) -> MarginRule:
        if self.max_gap is not None and self.ratio is not None:
            raise ValueError("max_gap and ratio are two spellings of one setting: give one of them")
        return self

    @property
    def gap(self) -> float | None:
        """The gap that decides; None where the ratio does."""
        return DEFAULT_GAP if self.max_gap is None and self.ratio is None else self.max_gap

    @property
    def is_lossless(self) -> bool:
        """No gap is below 0.  A ratio of 1 still keeps a likeliest token that a draw refused."""
        return self.gap == 0

    @property
    def required_followers(self) -> int:
        """The token itself, and the window behind it."""
        return 0 if self.is_lossless else 1 + (self.window or 0)

    def loosens(self, scores: Scores) -> Tensor:
        """Where the margin is small enough, whatever follows.  [B, K] bool."""
        if self.gap is None:
            assert self.ratio is not None
            table = scores.probs
            is_near = scores.p_draft >= self.ratio * scores.p_best
        else:
            table = scores.logits[:, :-1].float()
            own = table.gather(-1, scores.ids[..., None])[..., 0]
            is_near = table.amax(-1) - own < self.gap
        return is_near if self.top_n is None else is_near & among_top(table, scores.ids, self.top_n)

    def accept(self, scores: Scores) -> Decision:
        """Native matches, and mismatches within the margin whose window matches."""
        if self.window is None or self.is_lossless:
            return super().accept(scores)
        # No position of a proposal this short has its whole window behind it.
        is_short = (scores.lengths <= self.window)[:, None]  # [B, 1]
        fits = (scores.positions_after >= self.window) | (is_short & _is_undecided(scores))
        window = is_short | scores.followed_by(self.window)
        return scores.loosened(gate=self.loosens(scores), fits=fits, window=window)


def _is_undecided(scores: Scores) -> Tensor:
    """Where the likeliest token has less than SHORT_RATIO times the second's probability, by raw
    logits.  [B, K] bool.
    """
    best = scores.logits[:, :-1].float().topk(min(2, scores.logits.shape[-1]), dim=-1).values
    return torch.exp(best[..., 0] - best[..., -1]) < SHORT_RATIO
