"""Results of the statistics, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POINT = 0.01  # of a score, where nothing else is set

VerdictName = Literal["SAFE", "NOT SAFE", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % interval; what is undefined is None.

    `method` names how the interval was made, or why there is none.
    """

    estimate: float | None
    low: float | None
    high: float | None
    method: str


@dataclass(frozen=True)
class Paired:
    """A method's scores against the target's on the same items."""

    num_items: int
    gained: int | None  # items scored better than by the target; None for scores of all items
    lost: int | None  # items scored worse
    mcnemar_p: float | None  # exact, two-sided; None for graded scores
    difference: Interval  # of mean scores, method minus target
    recovery: Interval  # of mean scores, method by target; the other way where lower is better


@dataclass(frozen=True)
class Verdict:
    """Whether a method may stand in for the target, by a rule fixed before the run.

    SAFE: the one-sided 95 % lower bound of what is kept clears the margin; NOT SAFE: the upper
    bound is below it; else INCONCLUSIVE.  The p values are Holm's, over all verdicts of a
    comparison.
    """

    verdict: VerdictName
    p_safe: float  # of "no more is kept than the margin"
    p_not_safe: float  # of "no less is kept than the margin"
    # At the observed share of discordant items; where the target solves too few for a relative
    # margin, the least that could support one; None where decided, or no number would.
    items_needed: int | None
    explanation: str
