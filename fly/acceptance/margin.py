"""Margin, which keeps a token nearly as likely as the likeliest one.  Three forms: a gap of
log-probabilities of raw logits (llama.cpp, discussion 24804); a ratio of probabilities after the
processors (vLLM #22238, #43184; speculative cascades, token form, arXiv 2405.19261); a difference
of probabilities (TensorRT-LLM)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fly.acceptance.base import Decision, LooseRule, Spelling
from fly.acceptance.scores import Scores

SPELLINGS = ("max_gap", "ratio", "max_difference")
DEFAULT_GAP = 0.3  # llama.cpp's recommendation
# Of a proposal no longer than the window, llama.cpp keeps a mismatch only where the likeliest token
# is less than this many times as likely as the second.
SHORT_RATIO = 2.0


class MarginRule(LooseRule):
    """Lossy, unless max_gap is 0.  A gap of exactly max_gap is refused; a ratio of exactly `ratio`
    and a difference of exactly `max_difference` are kept, each as in its source.

    Differs: above temperature 0 llama.cpp measures the gap to the token that its sampler drew,
    which may be less likely than the draft's; here it is always the gap to the likeliest.  Its
    other gate, which takes over where the gap is 0, is left out: 0 switches the rule off.
    """

    max_gap: float | None = Field(
        None,
        ge=0,
        description="Keep d where ln p1 - ln p(d) is below this, in nats, from raw logits; p1 is "
        "the largest probability. Null: 0.3, unless ratio or max_difference is given.",
    )
    ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description="In place of max_gap: keep d where p(d) is at least this times p1, behind all "
        "processors.",
    )
    max_difference: float | None = Field(
        None,
        ge=0,
        le=1,
        description="In place of max_gap: keep d where p(d) is at least p1 less this, behind all "
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

    @model_validator(mode="before")
    @classmethod
    def _has_one_spelling(cls, given: Any) -> Any:
        """One of three decides: max_gap where none is named."""
        if not isinstance(given, dict):
            return given
        named = [name for name in SPELLINGS if given.get(name) is not None]
        if len(named) > 1:
            pair = " and ".join(named[:2])
            raise ValueError(f"{pair} are two spellings of one setting: give one of them")
        return given if named else given | {"max_gap": DEFAULT_GAP}

    @property
    def is_lossless(self) -> bool:
        """No gap is below 0.  A ratio of 1 still keeps a likeliest token that a draw refused."""
        return self.max_gap == 0

    @property
    def required_followers(self) -> int:
        """The token itself, and the window after it."""
        return 0 if self.is_lossless else 1 + (self.window or 0)

    def loosens(self, scores: Scores) -> Tensor:
        """Where the margin is small enough, whatever follows.  [B, K] bool."""
        if self.max_gap is not None:
            is_near = scores.top_logits[..., 0] - scores.draft_logit < self.max_gap
        elif self.ratio is not None:
            is_near = scores.p_draft >= self.ratio * scores.p_best
        else:
            assert self.max_difference is not None
            is_near = scores.p_draft >= scores.p_best - self.max_difference
        if self.top_n is None:
            return is_near
        return is_near & scores.among_top(self.top_n, is_raw=self.max_gap is not None)

    def accept(self, scores: Scores) -> Decision:
        """Native matches, and mismatches within the margin whose window matches."""
        if self.window is None or self.is_lossless:
            return super().accept(scores)
        # No position of a proposal this short has its whole window after it.
        is_short = (scores.lengths <= self.window)[:, None]  # [B, 1]
        undecided = _is_undecided(scores.only(is_short & scores.in_proposal & ~scores.native))
        fits = (scores.positions_after >= self.window) | (is_short & undecided)
        window = is_short | scores.followed_by(self.window)
        return scores.loosened(gate=self.loosens, fits=fits, window=window)


def _is_undecided(scores: Scores) -> Tensor:
    """Where the likeliest token has less than SHORT_RATIO times the second's probability, by raw
    logits.  [B, K] bool.
    """
    top = scores.top_logits
    return torch.exp(top[..., 0] - top[..., 1]) < SHORT_RATIO


class Cascade(Spelling):
    """`cascade`: keep d where p(d) >= (1 - alpha) p1, a ratio.

    Differs: the paper samples from a mixture of both models; this is the reduced form, which
    decides only where native acceptance refuses and leaves corrections as they are.
    """

    alpha: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of the largest probability that d may lack. The paper tries many up to "
        "0.95 and names no default; ours is 0.2.",
    )

    def meant(self) -> MarginRule:
        """A ratio."""
        return MarginRule.model_validate({"ratio": 1 - self.alpha})


class RelaxedTopN(Spelling):
    """`relaxed_top_n`: keep d among the top N where p(d) >= p1 - delta, a difference.

    The defaults are those that TensorRT-LLM recommends for DeepSeek-R1; its own are 1 and 0.  It
    relaxes in the thinking phase only (here with `only_inside`).
    """

    top_n: int = Field(10, ge=1, description="N: d must be one of so many likeliest tokens.")
    delta: float = Field(
        0.6, ge=0, le=1, description="How far p(d) may lie below the largest probability."
    )

    def meant(self) -> MarginRule:
        """A difference."""
        return MarginRule.model_validate({"max_difference": self.delta, "top_n": self.top_n})
