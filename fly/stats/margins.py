"""The margin of a verdict, as a share or as points of the target's score.  A point is a hundredth
of the score's unit, so a percentage point of a score between 0 and 1.  Where scores run from 0 to
100 (BLEU, chrF, TER) it is the unit itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fly.stats.judged import CONFIDENCE, Judged, items_to_decide

SHARE = 0.97


@dataclass(frozen=True)
class Margin(ABC):
    """The score that has to be kept.  `kept` is in the margin's own unit; more of it is better."""

    value: float

    @property
    @abstractmethod
    def least(self) -> float:
        """The value of `kept` that is SAFE if it is exceeded."""

    @property
    @abstractmethod
    def quantity(self) -> str:
        """What `kept` is called."""

    @abstractmethod
    def kept(self, scores: Judged) -> float | None:
        """What was observed."""

    @abstractmethod
    def p_safe(self, scores: Judged) -> float:
        """The p value of "no more is kept than the margin"."""

    @abstractmethod
    def p_not_safe(self, scores: Judged) -> float:
        """The p value of "no less is kept than the margin"."""

    @abstractmethod
    def lower(self, scores: Judged, confidence: float = CONFIDENCE) -> float | None:
        """The one-sided bound of `kept`, which clears just the margins that the test rejects."""

    @abstractmethod
    def upper(self, scores: Judged, confidence: float = CONFIDENCE) -> float | None:
        """The same from above."""

    @abstractmethod
    def loss_of(self, score: float, *, higher_is_better: bool, point: float) -> float | None:
        """What a target's score may lose, in its units; None where that is unknown."""

    def loss(self, scores: Judged) -> float | None:
        """The same of scores that are compared."""
        if self.share is not None and scores.why_no_ratio:
            return None
        return self.loss_of(
            scores.mean, higher_is_better=scores.higher_is_better, point=scores.point
        )

    @abstractmethod
    def items_at_least(self, scores: Judged, confidence: float = CONFIDENCE) -> int | None:
        """With fewer items even a method that loses nothing is not SAFE."""

    @abstractmethod
    def why_unsupported(self, scores: Judged, confidence: float = CONFIDENCE) -> str | None:
        """A sentence where the target's scores are too low for any verdict of SAFE."""

    @abstractmethod
    def show(self, kept: float | None) -> str:
        """`kept` in words."""

    @abstractmethod
    def bound(self, kept: float | None, *, is_lower: bool) -> str:
        """A bound of `kept` in words."""

    @abstractmethod
    def phrase(self, scores: Judged) -> str:
        """The margin in words."""

    @property
    @abstractmethod
    def _slope(self) -> float:
        """How much of the target's score the margin is held against."""

    def items_needed(self, scores: Judged, confidence: float = CONFIDENCE) -> int | None:
        """How many items would show SAFE if nothing is truly lost and as many differ as did."""
        loss, least = self.loss(scores), self.items_at_least(scores, confidence)
        if not loss or least is None:
            return None
        return max(items_to_decide(scores.discordance, loss, confidence), least)

    def items_at_observed(self, scores: Judged, confidence: float = CONFIDENCE) -> int | None:
        """How many items would decide if what was observed is the truth."""
        kept = self.kept(scores)
        if kept is None or kept == self.least:
            return None
        mean, variance = scores.spread(self._slope)
        reach = abs(mean + (0.0 if self.points is None else self.points * scores.point))
        return items_to_decide(variance, reach, confidence) if reach else None

    @property
    def share(self) -> float | None:
        """The value, where it is a share."""
        return self.value if isinstance(self, Share) else None

    @property
    def points(self) -> float | None:
        """The value, where it is in points."""
        return self.value if isinstance(self, Points) else None


@dataclass(frozen=True)
class Share(Margin):
    """A share of the target's score, which has to be kept."""

    def __post_init__(self) -> None:
        """Refuse what is no share.

        Raises:
            ValueError: it is not between 0 and 1.
        """
        if not 0 < self.value < 1:
            raise ValueError(f"no margin {self.value!r}: a share lies between 0 and 1")

    @property
    def least(self) -> float:
        return self.value

    @property
    def quantity(self) -> str:
        return "recovery"

    @property
    def _slope(self) -> float:
        return self.value

    def kept(self, scores: Judged) -> float | None:
        return scores.recovery.estimate

    def p_safe(self, scores: Judged) -> float:
        return scores.p_ratio_at_most(self.value)

    def p_not_safe(self, scores: Judged) -> float:
        return scores.p_ratio_at_least(self.value)

    def lower(self, scores: Judged, confidence: float = CONFIDENCE) -> float | None:
        return scores.lower_ratio(confidence)

    def upper(self, scores: Judged, confidence: float = CONFIDENCE) -> float | None:
        return scores.upper_ratio(confidence)

    def loss_of(self, score: float, *, higher_is_better: bool, point: float) -> float | None:
        share = 1 - self.value if higher_is_better else 1 / self.value - 1
        return share * score if score > 0 else None

    def items_at_least(self, scores: Judged, confidence: float = CONFIDENCE) -> int | None:
        if not scores.weight:
            return None
        needed = scores.weight_needed(self.value, confidence)
        return math.ceil(needed * scores.num_items / scores.weight)

    def why_unsupported(self, scores: Judged, confidence: float = CONFIDENCE) -> str | None:
        """As in Margin; offers points, which do not depend on what the target solves."""
        needed = scores.weight_needed(self.value, confidence)
        told = scores.weight_told
        if told is None or scores.why_no_ratio or scores.weight >= needed:
            return None
        least = self.items_at_least(scores, confidence)
        about = "" if least is None else f" (at this score about {rounded(least)} items)"
        points = Points(float(f"{100 * (1 - self.value):.2g}"))
        enough = points.items_needed(scores, confidence)
        so_many = ""
        if enough is not None:
            so_many = f": {points.value:g} would take about {rounded(enough)} items"
        return (
            f"{told}. A margin of {percent(self.value)} of the target's score takes "
            f"at least {needed:,} solved ones{about} even if none is lost, so this task cannot "
            "support a relative margin here. --margin_points says how many points may be lost, "
            f"whatever the target solves{so_many}."
        )

    def show(self, kept: float | None) -> str:
        return f"{percent(kept)} kept"

    def bound(self, kept: float | None, *, is_lower: bool) -> str:
        return f"At {'least' if is_lower else 'most'} {percent(kept)} is kept"

    def phrase(self, scores: Judged) -> str:
        loss = self.loss(scores)
        allows = ""
        if loss is not None:
            allows = f", which allows to lose {loss / scores.point:.1f} points"
        return f"the margin of {percent(self.value)}{allows}"


@dataclass(frozen=True)
class Points(Margin):
    """Points of the score, which may be lost."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be lost of.

        Raises:
            ValueError: it is not above 0.
        """
        if not 0 < self.value < math.inf:
            raise ValueError(f"no margin of {self.value!r} points: they are above 0")

    @property
    def least(self) -> float:
        return -self.value

    @property
    def quantity(self) -> str:
        return "difference in points"

    @property
    def _slope(self) -> float:
        return 1.0

    def kept(self, scores: Judged) -> float | None:
        """As in Margin: points gained; below 0 those lost."""
        return scores.spread(1.0)[0] / scores.point

    def p_safe(self, scores: Judged) -> float:
        return scores.p_difference_at_most(-self.value * scores.point)

    def p_not_safe(self, scores: Judged) -> float:
        return scores.p_difference_at_least(-self.value * scores.point)

    def lower(self, scores: Judged, confidence: float = CONFIDENCE) -> float | None:
        bound = scores.lower_difference(confidence)
        return None if bound is None else bound / scores.point

    def upper(self, scores: Judged, confidence: float = CONFIDENCE) -> float | None:
        bound = scores.upper_difference(confidence)
        return None if bound is None else bound / scores.point

    def loss_of(self, score: float, *, higher_is_better: bool, point: float) -> float | None:
        return self.value * point

    def items_at_least(self, scores: Judged, confidence: float = CONFIDENCE) -> int | None:
        return scores.items_to_see(self.value * scores.point, confidence)

    def why_unsupported(self, scores: Judged, confidence: float = CONFIDENCE) -> str | None:
        """As in Margin: a difference is defined at any score."""
        return None

    def show(self, kept: float | None) -> str:
        if kept is None:
            return "an unknown difference"
        return f"{abs(kept):.1f} points {'lost' if kept < 0 else 'gained'}"

    def bound(self, kept: float | None, *, is_lower: bool) -> str:
        """As in Margin: a lower bound of what is kept is an upper one of what is lost."""
        if kept is None:
            return "An unknown number of points is lost"
        least = is_lower == (kept >= 0)
        word = "gained" if kept >= 0 else "lost"
        return f"At {'least' if least else 'most'} {abs(kept):.1f} points are {word}"

    def phrase(self, scores: Judged) -> str:
        loss = self.value * scores.point
        text = f"the margin of {self.value:g} points ({loss:g} of the score)"
        if scores.higher_is_better and loss >= scores.mean:
            text += (
                f", which is not below the target's own {scores.mean / scores.point:.1f}: what "
                "loses everything would be within it"
            )
        return text


def percent(share: float | None) -> str:
    """A share in words."""
    return "an unknown share" if share is None else f"{100 * share:.1f} %"


def rounded(number: int) -> str:
    """Two digits are all that an estimate from a sample is worth."""
    unit = 10 ** max(len(str(number)) - 2, 0)
    return f"{-(-number // unit) * unit:,}"
