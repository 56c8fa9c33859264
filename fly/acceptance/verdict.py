"""A rule's answer, position by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fly.acceptance.protocol import Reason
from fly.acceptance.scores import Scores


@dataclass(frozen=True, eq=False)
class Verdict:
    """Decisions per position; only the prefix before the first refusal takes effect."""

    accepted: Tensor  # [B, K] bool
    loose: Tensor  # [B, K] bool, accepted although a native mismatch
    reason: Tensor  # [B, K] int8, a Reason each
    windowed: Tensor  # [B, K] bool, mismatches that boundary and window alone would keep
    # [B, K+1]: a correction at place i is drawn from the normalised max(0, weight p - q); None: 1
    weight: Tensor | None = None

    @classmethod
    def strict(cls, scores: Scores) -> Verdict:
        """Native acceptance and nothing else."""
        native = scores.native
        reason = torch.where(native, int(Reason.MATCH), int(Reason.STRICT)).to(torch.int8)
        never = torch.zeros_like(native)
        return cls(native, never, reason.masked_fill(~scores.in_proposal, Reason.OUTSIDE), never)

    @classmethod
    def loosened(
        cls,
        scores: Scores,
        *,
        gate: Tensor,
        fits: Tensor | None = None,
        window: Tensor | None = None,
    ) -> Verdict:
        """Keep a native mismatch where all three conditions hold and nothing protected is
        concerned.

        Args:
            scores: the round's scores.
            gate: [B, K] bool, the rule's condition holds.
            fits: [B, K] bool, enough positions follow in the proposal; None: no matter.
            window: [B, K] bool, the inspected followers are native matches; None: no matter.
        """
        mismatch = scores.in_proposal & ~scores.native
        everywhere = torch.ones_like(mismatch)
        fits = everywhere if fits is None else fits
        windowed = mismatch & fits & (everywhere if window is None else window)
        free = ~scores.is_protected
        loose = windowed & gate & free
        reason = torch.full_like(scores.ids, int(Reason.WINDOW), dtype=torch.int8)
        # From the last condition looked at to the first, so that the first one that failed is what
        # stays.
        reason.masked_fill_(~fits, Reason.BOUNDARY).masked_fill_(~gate, Reason.GATE)
        reason.masked_fill_(~free, Reason.PROTECTED)
        reason.masked_fill_(loose, Reason.LOOSE).masked_fill_(scores.native, Reason.MATCH)
        reason.masked_fill_(~scores.in_proposal, Reason.OUTSIDE)
        return cls(scores.native | loose, loose, reason, windowed)
