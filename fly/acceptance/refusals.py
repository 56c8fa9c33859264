"""Masks along proposals, up to the first refusal, and the reasons."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fly.acceptance.decision import Reason


def leading_true(mask: Tensor) -> Tensor:
    """Length of the prefix of True in every row.  mask [B, K] bool -> [B] int64."""
    return mask.cumprod(-1, dtype=torch.int64).sum(-1)


def up_to_first(mask: Tensor) -> Tensor:
    """Where no position before is True.  mask [B, K] bool -> [B, K] bool."""
    return mask.cumsum(-1) - mask.long() == 0


def followed_by(mask: Tensor, count: int) -> Tensor:
    """Where the next `count` positions are all True; False where the row ends before.  mask [B, K]
    bool -> [B, K] bool.
    """
    if count == 0 or mask.shape[1] == 0:
        return torch.ones_like(mask)
    return F.pad(mask, (0, count)).unfold(1, count + 1, 1)[..., 1:].all(-1)


def reasons(
    native: Tensor, loose: Tensor, *, free: Tensor, gate: Tensor, fits: Tensor, inside: Tensor
) -> Tensor:
    """The Reason of every position, as Scores.loosened names the conditions; all [B, K] bool.
    [B, K] int8.

    Args:
        native: native matches.
        loose: mismatches that are kept.
        free: nothing protected is concerned.
        gate: the rule's condition holds.
        fits: enough positions follow.
        inside: positions of the proposal.
    """
    reason = torch.full_like(native, int(Reason.WINDOW), dtype=torch.int8)
    # From the last condition looked at to the first, so that the first one that failed is what
    # stays.
    reason.masked_fill_(~fits, Reason.BOUNDARY).masked_fill_(~gate, Reason.GATE)
    reason.masked_fill_(~free, Reason.PROTECTED)
    reason.masked_fill_(loose, Reason.LOOSE).masked_fill_(native, Reason.MATCH)
    return reason.masked_fill_(~inside, Reason.OUTSIDE)
