"""Block verification, which judges a proposal as a whole.  It keeps the target's distribution and
on average at least as many tokens as token by token.  Source: Sun et al., arXiv 2403.10444,
algorithm 2."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fly.acceptance.base import Decision, Reason, Rule
from fly.acceptance.rejection import RejectionSampling
from fly.acceptance.scores import Scores
from fly.settings import Temperatures


class BlockRule(Rule):
    """With P_0 = 1 and P_i = min(1, P_{i-1} p(d_i) / q(d_i)), the prefix of i tokens is fit with
    probability h_i, one draw each.  The longest fit prefix n is kept, and the recovered token drawn
    from the normalised max(0, P_n p - q).  Lossless.

    h_L = P_L for the whole proposal of L tokens; before, h_i = S_i / (S_i + 1 - P_i) with
    S_i = sum max(0, P_i p - q) after it.  A drafter may stop where it likes as long as that depends
    on the tokens before alone: the proof goes from any end backwards.  Kept tokens count as
    matches, refused ones as STRICT: nothing is loosened.
    """

    temperatures: ClassVar[Temperatures] = "sampled"
    needs_law: ClassVar[bool] = True

    @property
    def is_lossless(self) -> bool:
        """Always."""
        return True

    def accept(self, scores: Scores) -> Decision:
        """The longest fit prefix of sampled rows; native matches of greedy ones."""
        strict = scores.strict()
        law = scores.law
        if law is None or scores.ids.shape[1] == 0:
            return strict
        joint = _joint(law, scores.ids)
        fit = law.uniform < _fitness(law, scores, joint)  # [B, K]
        longest = fit.flip(-1).cummax(-1).values.flip(-1)  # a fit prefix lies at or after it
        accepted = torch.where(law.is_sampled[:, None], longest, strict.accepted)
        reason = torch.where(accepted, int(Reason.MATCH), int(Reason.STRICT)).to(torch.int8)
        reason.masked_fill_(~scores.in_proposal, Reason.OUTSIDE)
        weight = joint.masked_fill(~law.is_sampled[:, None], 1.0)
        return Decision(accepted, strict.loose, reason, strict.windowed, weight)


def _joint(law: RejectionSampling, ids: Tensor) -> Tensor:
    """P_0 to P_K; what lies after a row's proposal means nothing.  [B, K+1] float64."""
    p, q = (table.double() for table in law.probabilities(ids))
    ratio = torch.where(q > 0, p / q, 0.0)
    joint = [torch.ones_like(ratio[:, 0])]
    for place in range(ids.shape[1]):
        joint.append((joint[-1] * ratio[:, place]).clamp_max(1))
    return torch.stack(joint, 1)


def _fitness(law: RejectionSampling, scores: Scores, joint: Tensor) -> Tensor:
    """h_1 to h_K, 0 after the proposal.  [B, K] float64."""
    surplus = law.surplus(scores.ids, joint[:, :-1])  # joint: P of what precedes each place
    # Column i of `inner` is the prefix of i + 1 tokens, whose surplus stands at the place after.
    left, reached = surplus[:, 1:], joint[:, 1:-1]
    whole = left + 1 - reached
    inner = torch.where(whole > 0, left / whole, 1.0)
    inner = torch.cat([inner, inner.new_zeros(len(inner), 1)], 1)
    is_last = scores.positions_after == 0
    return torch.where(is_last, joint[:, 1:], inner).masked_fill(~scores.in_proposal, 0.0)
