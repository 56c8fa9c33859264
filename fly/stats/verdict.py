"""The verdict SAFE or NOT SAFE, by a rule fixed before the run.  SAFE: the one-sided lower bound of
what is kept clears the margin.  NOT SAFE is the same from above.  Each of the two families, one p
of its kind per verdict, is corrected on its own (Holm)."""

from __future__ import annotations

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests

from fly.stats.judged import CONFIDENCE, Judged
from fly.stats.margins import SHARE, Margin, Share, rounded
from fly.stats.records import Verdict, VerdictName

MARGIN = Share(SHARE)
OFFER = "--margin_points takes a margin that does not hang on the target's score."


def judge_all(
    comparisons: Sequence[Judged], margin: Margin = MARGIN, confidence: float = CONFIDENCE
) -> list[Verdict]:
    """Judge all of a comparison together.

    The bound is the margin at which the test's p is 1 - confidence, so it clears just the margins
    that the test rejects: the verdict is read from p, which Holm's correction can then raise.

    Raises:
        ValueError: the confidence is not between 0.5 and 1.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"no confidence {confidence!r}: it lies between 0.5 and 1")
    safe = holm([margin.p_safe(scores) for scores in comparisons])
    not_safe = holm([margin.p_not_safe(scores) for scores in comparisons])
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
    scores: Judged,
    p_safe: float,
    p_not_safe: float,
    margin: Margin,
    confidence: float,
    num_verdicts: int,
) -> Verdict:
    name: VerdictName = "INCONCLUSIVE"
    needed = None
    if p_safe < 1 - confidence:
        name = "SAFE"
        text = margin.bound(margin.lower(scores, confidence), is_lower=True)
        text += f": better than {margin.phrase(scores)}."
    elif p_not_safe < 1 - confidence:
        name = "NOT SAFE"
        text = margin.bound(margin.upper(scores, confidence), is_lower=False)
        text += f": worse than {margin.phrase(scores)}."
    else:
        # What the smallest of so many p values has to reach.
        strict = 1 - (1 - confidence) / num_verdicts
        unsupported = margin.why_unsupported(scores, strict)
        if unsupported is not None:
            needed, text = margin.items_at_least(scores, strict), unsupported
        else:
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


def _items_needed(scores: Judged, margin: Margin, confidence: float) -> int | None:
    """More items than there are, or None: as many as decide if nothing is lost; where there were
    as many, as many as decide at what was observed.
    """
    needed = margin.items_needed(scores, confidence)
    if needed is not None and needed <= scores.num_items:
        needed = margin.items_at_observed(scores, confidence)
        needed = needed and max(needed, scores.num_items + 1)
    return needed


def _open_question(scores: Judged, margin: Margin, confidence: float) -> str:
    """Why nothing is decided, and how many items would."""
    kept, items = margin.kept(scores), scores.num_items
    if kept is None:
        return f"No {margin.quantity} can be told: {scores.recovery.method}. {OFFER}"
    parts = [
        f"{items:,} items with {margin.show(kept)} do not tell on which side of "
        f"{margin.phrase(scores)} the truth lies."
    ]
    if_lossless = margin.items_needed(scores, confidence)
    if if_lossless is not None and if_lossless > items:
        parts.append(
            f"So few cannot support this margin: as often as scores differ{scores.share_told}, "
            f"about {rounded(if_lossless)} would show SAFE if nothing is truly lost."
        )
    if_observed = margin.items_at_observed(scores, confidence)
    if if_observed is not None and kept < margin.least:
        about = rounded(max(if_observed, items + 1))
        parts.append(f"If so much is truly lost, about {about} would show NOT SAFE.")
    elif if_observed is not None and len(parts) == 1:
        about = rounded(max(if_observed, items + 1))
        parts.append(f"If so much is truly kept, about {about} would show SAFE.")
    return " ".join(parts)
