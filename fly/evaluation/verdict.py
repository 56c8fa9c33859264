"""The verdict of a comparison, by a rule fixed before the run.

SAFE: the recovery's one-sided lower bound clears the margin.  That bound is the margin at which the
test's p is 1 - confidence, so it clears just the margins that the test rejects: the verdict is read
from p, which Holm's correction can then raise.  NOT SAFE is the same from above.  Each of the two
families, one p of its kind per verdict, is corrected on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests

from fly.evaluation.paired import CONFIDENCE, PairedScores
from fly.formats.comparison import Verdict, VerdictName

MARGIN = 0.97


def judge_all(
    comparisons: Sequence[PairedScores], margin: float = MARGIN, confidence: float = CONFIDENCE
) -> list[Verdict]:
    """Judge all of a comparison together.

    Raises:
        ValueError: the margin or the confidence is not between 0 and 1.
    """
    if not (0 < margin < 1 and 0.5 < confidence < 1):
        raise ValueError(f"no margin {margin!r} with confidence {confidence!r}: both are below 1")
    safe = holm([scores.p_safe(margin) for scores in comparisons])
    not_safe = holm([scores.p_not_safe(margin) for scores in comparisons])
    return [
        _judge(scores, p_safe, p_not_safe, margin, confidence, len(comparisons))
        for scores, p_safe, p_not_safe in zip(comparisons, safe, not_safe, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted: all that are below a level may be rejected together at that level."""
    if not p_values:
        return []
    return [min(1.0, float(p)) for p in multipletests(p_values, method="holm")[1]]


def _judge(
    scores: PairedScores,
    p_safe: float,
    p_not_safe: float,
    margin: float,
    confidence: float,
    num_verdicts: int,
) -> Verdict:
    name: VerdictName = "INCONCLUSIVE"
    needed = None
    if p_safe < 1 - confidence:
        name = "SAFE"
        text = f"At least {_percent(scores.lower_bound(confidence))} is kept: more than"
        text += f" {_margin(scores, margin)}."
    elif p_not_safe < 1 - confidence:
        name = "NOT SAFE"
        text = f"At most {_percent(scores.upper_bound(confidence))} is kept: less than"
        text += f" {_margin(scores, margin)}."
    else:
        # What the smallest of so many p values has to reach.
        strict = 1 - (1 - confidence) / num_verdicts
        needed = _items_needed(scores, margin, strict)
        text = _open_question(scores, margin, strict)
    if num_verdicts > 1:
        text += f" Corrected for {num_verdicts} verdicts (Holm)."
    return Verdict(
        verdict=name,
        p_safe=p_safe,
        p_not_safe=p_not_safe,
        items_needed=needed,
        explanation=text,
    )


def _items_needed(scores: PairedScores, margin: float, confidence: float) -> int | None:
    """More items than there are, or None: as many as decide if nothing is lost; where there were
    as many, as many as decide at the observed recovery.
    """
    needed = scores.items_needed(margin, confidence)
    if needed is not None and needed <= scores.num_items:
        needed = scores.items_at_observed(margin, confidence)
        needed = needed and max(needed, scores.num_items + 1)
    return needed


def _open_question(scores: PairedScores, margin: float, confidence: float) -> str:
    """Why nothing is decided, and how many items would."""
    recovery, items = scores.recovery, scores.num_items
    if recovery.estimate is None:
        return f"No recovery can be told: {recovery.method}."
    parts = [
        f"{items:,} items with {_percent(recovery.estimate)} kept do not tell on which side of "
        f"{_margin(scores, margin)} the truth lies."
    ]
    if_lossless = scores.items_needed(margin, confidence)
    if if_lossless is not None and if_lossless > items:
        parts.append(
            f"So few cannot support this margin: as often as scores differ{_share(scores)}, about "
            f"{_rounded(if_lossless)} would show SAFE if nothing is truly lost."
        )
    if_observed = scores.items_at_observed(margin, confidence)
    if if_observed is not None and recovery.estimate < margin:
        about = _rounded(max(if_observed, items + 1))
        parts.append(f"If so much is truly lost, about {about} would show NOT SAFE.")
    elif if_observed is not None and len(parts) == 1:
        about = _rounded(max(if_observed, items + 1))
        parts.append(f"If so much is truly kept, about {about} would show SAFE.")
    return " ".join(parts)


def _share(scores: PairedScores) -> str:
    return f" ({_percent(scores.discordance)} of items)" if scores.counts is not None else ""


def _margin(scores: PairedScores, margin: float) -> str:
    """The margin as a share and in points of the score."""
    points = scores.points_allowed(margin)
    allows = "" if points is None else f", which allows to lose {points:.1f} points"
    return f"the margin of {_percent(margin)}{allows}"


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.1f} %"


def _rounded(number: int) -> str:
    """Two digits are all that an estimate from a sample is worth."""
    unit = 10 ** max(len(str(number)) - 2, 0)
    return f"{-(-number // unit) * unit:,}"
