"""Base classes of paired scores, from which a verdict is read.  They are of single items or of a
whole corpus.  Ratio and difference here mean how much of the target's quality is *kept*: where
lower is better, the roles are exchanged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from statistics import NormalDist

from fly.stats.records import Interval, Paired

POWER = 0.80  # probability of a verdict with as many items as are called needed
CONFIDENCE = 0.95  # of one-sided bounds


class Side(ABC):
    """The score kept, by ratio and by difference of the scores; all bounds are lower ones."""

    @property
    @abstractmethod
    def exchanged(self) -> Side:
        """The method in the target's place."""

    @abstractmethod
    def p_ratio_at_most(self, ratio: float) -> float:
        """The p value of that hypothesis; 1 where it is undefined."""

    def p_ratio_at_least(self, ratio: float) -> float:
        """The same from above."""
        return self.exchanged.p_ratio_at_most(1 / ratio)

    @abstractmethod
    def p_difference_at_most(self, difference: float) -> float:
        """The p value of that hypothesis, in units of the score; 1 where it is undefined."""

    @abstractmethod
    def lower_ratio(self, confidence: float) -> float | None:
        """The ratio at which p is 1 - confidence; None where there is none."""

    @abstractmethod
    def lower_difference(self, confidence: float) -> float | None:
        """The difference at which p is 1 - confidence; None where there is none."""


class Judged(ABC):
    """Scores of both, ready to be judged."""

    num_items: int
    higher_is_better: bool
    point: float  # how much of the score is called a point

    @property
    @abstractmethod
    def mean(self) -> float:
        """The target's score."""

    @property
    @abstractmethod
    def recovery(self) -> Interval:
        """Of the ratio."""

    @property
    @abstractmethod
    def why_no_ratio(self) -> str | None:
        """What keeps a ratio from saying anything; None where it does."""

    @property
    @abstractmethod
    def side(self) -> Side:
        """Of both, with what the recovery divides by in the target's place."""

    def p_ratio_at_most(self, ratio: float) -> float:
        """The p value of that hypothesis; 1 where it is undefined."""
        return self.side.p_ratio_at_most(ratio)

    def p_ratio_at_least(self, ratio: float) -> float:
        """The same from above."""
        return self.side.p_ratio_at_least(ratio)

    def p_difference_at_most(self, difference: float) -> float:
        """The p value of that hypothesis, in units of the score; 1 where it is undefined."""
        return self.side.p_difference_at_most(difference)

    def p_difference_at_least(self, difference: float) -> float:
        """The same from above."""
        return self.side.exchanged.p_difference_at_most(-difference)

    def lower_ratio(self, confidence: float = CONFIDENCE) -> float | None:
        """One-sided: the ratio at which p is 1 - confidence, so that the bound clears just those
        margins that the test rejects; None where there is none.
        """
        return self.side.lower_ratio(confidence)

    def upper_ratio(self, confidence: float = CONFIDENCE) -> float | None:
        """The same from above."""
        low = self.side.exchanged.lower_ratio(confidence)
        return 1 / low if low else None

    def lower_difference(self, confidence: float = CONFIDENCE) -> float | None:
        """As `lower_ratio`."""
        return self.side.lower_difference(confidence)

    def upper_difference(self, confidence: float = CONFIDENCE) -> float | None:
        """As `upper_ratio`."""
        low = self.side.exchanged.lower_difference(confidence)
        return None if low is None else -low

    @property
    @abstractmethod
    def weight(self) -> float:
        """How many solved items show as much of a ratio as the target's scores do."""

    @property
    @abstractmethod
    def weight_told(self) -> str | None:
        """`weight` as a clause; None where nothing is solved item by item."""

    @abstractmethod
    def weight_needed(self, ratio: float, confidence: float) -> int:
        """The least `weight` with which a method that loses nothing is shown to keep more than
        `ratio`: with less it would show no loss by chance too often.
        """

    @abstractmethod
    def items_to_see(self, loss: float, confidence: float) -> int:
        """The fewest items with which a method that loses nothing is shown to lose less than
        `loss`, in units of the score.
        """

    @property
    @abstractmethod
    def discordance(self) -> float:
        """What one item adds to the variance of the difference if nothing is truly lost."""

    @property
    def share_told(self) -> str:
        """How many items differ, in brackets; nothing where that is not counted."""
        return ""

    @abstractmethod
    def spread(self, slope: float) -> tuple[float, float]:
        """The mean of "method less `slope` times target", and what one item adds to its
        variance."""

    @abstractmethod
    def to_paired(self) -> Paired:
        """For the comparison's file; the difference is method minus target, whatever is better."""


def items_to_decide(
    discordance: float, reach: float, confidence: float = CONFIDENCE, power: float = POWER
) -> int:
    """Items for a one-sided bound to clear a margin with probability `power`.  The margin lies
    `reach` (in units of the score) off the truth; each item adds `discordance` to the variance.
    """
    z = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(power)
    return math.ceil(z**2 * discordance / reach**2)
