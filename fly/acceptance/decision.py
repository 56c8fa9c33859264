"""A rule's decision for every position of a round, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Reason(IntEnum):
    """Why a position was kept or refused.  Refusals stand in the order in which they are looked
    for.
    """

    OUTSIDE = 0  # after the row's proposal
    MATCH = 1  # native acceptance
    LOOSE = 2  # a mismatch that was kept
    STRICT = 3  # the rule never keeps a mismatch
    PROTECTED = 4  # the draft token or the target's choice is a special or an end token or belongs
    # to a stop string, or nothing may be loosened at this place
    GATE = 5  # the rule's condition does not hold; FLy's: the target was sure
    BOUNDARY = 6  # too few positions follow in the proposal
    WINDOW = 7  # one of the inspected followers mismatches


REFUSALS = (Reason.STRICT, Reason.PROTECTED, Reason.GATE, Reason.BOUNDARY, Reason.WINDOW)


@dataclass(frozen=True, eq=False)
class Decision:
    """Decisions per position; only the prefix before the first refusal takes effect."""

    accepted: Tensor  # [B, K] bool
    loose: Tensor  # [B, K] bool, accepted although a native mismatch
    reason: Tensor  # [B, K] int8, a Reason each
    windowed: Tensor  # [B, K] bool, mismatches that boundary and window alone would keep
    # [B, K+1]: a recovered token at place i is drawn from the normalised max(0, weight p - q);
    # None: 1
    weight: Tensor | None = None
