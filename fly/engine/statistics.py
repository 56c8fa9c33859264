"""Counters of one request, additive over requests, and their metrics.  `emitted = matched + loose +
corrections + bonuses + plain - trimmed` always holds.  A correction is the recovered token after a
refusal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from fly.acceptance import Reason


@dataclass
class Statistics:
    """Costs and gains of decoding; add two to pool them.

    Only what precedes the first refusal of a round counts.  The reference implementation's own
    counters, which look beyond it, are kept apart as `official_*`.
    """

    requests: int = 0
    prompt_tokens: int = 0
    rounds: int = 0  # target forwards that verified a proposal
    proposed: int = 0
    matched: int = 0
    loose: int = 0
    corrections: int = 0
    bonuses: int = 0
    plain: int = 0  # tokens from target forwards without a proposal
    trimmed: int = 0  # decoded after the end of the answer, thrown away
    emitted: int = 0
    unfinished_thinking: int = 0  # answers that ended before their thinking did
    draft_forwards: int = 0  # forwards of the draft model in the rounds that the row was in
    refused_strict: int = 0  # first refusals of a round, by reason
    refused_protected: int = 0
    refused_gate: int = 0
    refused_boundary: int = 0
    refused_window: int = 0
    official_mismatches: int = (
        0  # reference counters, after the first refusal too; 0 unless enable_statistics
    )
    official_windowed: int = 0
    official_accepted: int = 0
    seconds_prefill: float = (
        0.0  # the row's share of the batch's wall time; on an accelerator the phases are
    )
    seconds_draft: float = 0.0  # host times and only their sum is wall time
    seconds_target: float = 0.0
    seconds_acceptance: float = 0.0
    seconds_rest: float = 0.0
    seconds_compile: float = 0.0  # before the first round; no part of `seconds`
    timed_rounds: float = 0.0  # the row's share of plain rounds timed in between (plain_rounds)
    timed_plain_s: float = 0.0  # its share of their seconds
    timed_usual_s: float = 0.0  # and what as many tokens took in the rounds between them

    def __add__(self, other: Statistics) -> Statistics:
        """Pool two."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Statistics(*(a + b for a, b in pairs))

    def refuse(self, reason: int) -> None:
        """Count a round's first refusal."""
        match reason:
            case Reason.STRICT:
                self.refused_strict += 1
            case Reason.PROTECTED:
                self.refused_protected += 1
            case Reason.GATE:
                self.refused_gate += 1
            case Reason.BOUNDARY:
                self.refused_boundary += 1
            case Reason.WINDOW:
                self.refused_window += 1

    @property
    def seconds(self) -> float:
        """All phases of decoding."""
        return (
            self.seconds_prefill
            + self.seconds_draft
            + self.seconds_target
            + self.seconds_acceptance
            + self.seconds_rest
        )

    @property
    def by_plain(self) -> float | None:
        """Speed by that of the plain rounds timed in between, at the same numbers of rows."""
        return ratio(self.timed_plain_s, self.timed_usual_s)

    def to_dict(self) -> dict[str, int | float]:
        """The raw counters."""
        return asdict(self)

    def metrics(self) -> dict[str, float | None]:
        """Pooled metrics; None where nothing was counted.

        mean_acceptance_length: tokens gained per verifying target forward, correction or bonus
            included (tau).
        acceptance_rate: accepted over proposed tokens.  loose_share: loose over emitted tokens.
        tokens_per_s: emitted tokens over all seconds, prefill included.
        """
        gained = self.matched + self.loose + self.corrections + self.bonuses
        return {
            "mean_acceptance_length": ratio(gained, self.rounds),
            "acceptance_rate": ratio(self.matched + self.loose, self.proposed),
            "loose_share": ratio(self.loose, self.emitted),
            "tokens_per_s": ratio(self.emitted, self.seconds),
            "tokens_per_request": ratio(self.emitted, self.requests),
        }


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`, or None where the whole is 0."""
    return part / whole if whole else None
