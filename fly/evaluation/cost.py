"""Why a method is slow or fast: what its rounds cost in units of one plain step of the target, what
that predicts, and one sentence of advice.

A round of K drafted tokens costs K draft forwards, one verification and an overhead, and brings tau
tokens; plain decoding pays a step and its overhead for each.  The ideal speedup counts forwards
only, with a verification as dear as a plain step (Leviathan et al., arXiv 2211.17192, theorem 3.8
with tau measured instead of assumed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fly.decoding import Statistics
from fly.decoding.statistics import ratio
from fly.evaluation.methods import Method
from fly.formats.comparison import Acceptance, Cost

WORTHWHILE = 1.05  # predicted gain from which another K is advised
DEAR_DRAFT = 0.5  # of a plain step
DEAR_VERIFICATION = 2.0  # plain steps
DEAR_OVERHEAD = 0.3  # of a round
STILL_KEPT = 0.5  # of the last drafted token: below, more of them would be wasted


@dataclass(frozen=True)
class RoundCost:
    """Parts of a round, in plain steps of the target."""

    draft_forward: float  # 0 where no model drafts
    forwards: float  # of the draft, a round
    verification: float
    overhead: float
    plain_overhead: float  # of a plain step

    @property
    def whole(self) -> float:
        """The round."""
        return self.forwards * self.draft_forward + self.verification + self.overhead

    def at(self, k: int, wanted: int) -> float:
        """What it would cost with `wanted` drafted tokens instead of `k`: drafting and what a
        verification costs above a plain step grow with their number."""
        share = wanted / k
        above = (self.verification - 1) * share
        return self.forwards * share * self.draft_forward + 1 + above + self.overhead


def measure_round(own: Statistics, plain: Statistics) -> RoundCost | None:
    """A method's round by the target's plain steps at the same batch size; None where one of them
    did nothing."""
    step = ratio(plain.seconds_target, plain.plain)
    if not step or not own.rounds:
        return None
    plain_rest = (plain.seconds_acceptance + plain.seconds_rest + plain.seconds_draft) / plain.plain
    verifying = own.seconds_target - own.plain * step
    return RoundCost(
        draft_forward=(ratio(own.seconds_draft, own.draft_forwards) or 0.0) / step,
        forwards=own.draft_forwards / own.rounds,
        verification=max(verifying, 0.0) / own.rounds / step,
        overhead=(
            own.seconds_acceptance
            + own.seconds_rest
            + (0.0 if own.draft_forwards else own.seconds_draft)
        )
        / own.rounds
        / step,
        plain_overhead=plain_rest / step,
    )


def explain(
    method: Method,
    own: Statistics,
    plain: Statistics,
    acceptance: Acceptance,
    measured: float | None,
) -> Cost | None:
    """The costs of a method's rounds and what to do about them; None where nothing was drafted.

    Args:
        method: what was run.
        own: its pooled statistics.
        plain: the target's in the same engine, on the same requests.
        acceptance: of its proposals.
        measured: the speedup that was measured against the target.
    """
    tau = acceptance.mean_acceptance_length
    parts = measure_round(own, plain)
    if tau is None or parts is None:
        return None
    return Cost(
        draft_forward=parts.draft_forward if own.draft_forwards else None,
        verification=parts.verification,
        overhead=parts.overhead,
        ideal_speedup=tau / (parts.forwards * parts.draft_forward + 1),
        predicted_speedup=tau * (1 + parts.plain_overhead) / parts.whole,
        measured_speedup=measured,
        advice=advise(method, parts, acceptance.by_position, tau),
    )


def best_k(parts: RoundCost, kept: Sequence[float], k: int) -> tuple[int, float]:
    """The number of drafted tokens that is predicted to be fastest, up to `k`, and its gain.

    Args:
        parts: costs at `k`.
        kept: of rounds that proposed a token there, the share that kept it, by position.
        k: tokens drafted.
    """
    gained, rates = 1.0, []
    for number, share in enumerate(kept[:k], start=1):
        gained += share
        rates.append(gained / parts.at(k, number))
    best = max(range(len(rates)), key=lambda place: rates[place])
    return best + 1, rates[best] / rates[-1]


def advise(method: Method, parts: RoundCost, kept: Sequence[float], tau: float) -> str:
    """One sentence: the first thing to change."""
    k = method.config.spd_k
    wanted, gain = best_k(parts, kept, k) if kept else (k, 1.0)
    drafting = parts.forwards * parts.draft_forward / parts.whole
    if parts.draft_forward > DEAR_DRAFT:
        return (
            f"A draft forward costs {parts.draft_forward:.2f} of a plain step of the target: take "
            "a smaller draft, or drafter ngram, which needs none."
        )
    if gain >= WORTHWHILE and wanted < k:
        return (
            f"Later drafted tokens are kept too seldom: spd_k={wanted} instead of {k} is predicted "
            f"to be {gain - 1:.0%} faster."
        )
    if parts.verification > DEAR_VERIFICATION:
        return (
            f"Verifying a proposal costs {parts.verification:.1f} plain steps at batch "
            f"{method.batch_size}: forwards are busy there already, and a smaller batch gains more "
            "from speculation, if not in tokens per second."
        )
    if parts.overhead > DEAR_OVERHEAD * parts.whole:
        return (
            f"{parts.overhead / parts.whole:.0%} of a round is spent outside the models: a larger "
            "batch shares it among more rows."
        )
    if kept and kept[-1] > STILL_KEPT:
        return (
            f"The last drafted token is still kept in {kept[-1]:.0%} of the rounds: a larger spd_k "
            f"than {k} may be faster."
        )
    if drafting > 1 / 2:
        return (
            f"Drafting takes {drafting:.0%} of a round: a smaller draft, or drafter multilevel on "
            "texts that repeat themselves, would save most."
        )
    return f"Nothing stands out: {tau:.1f} tokens a round at the cost of {parts.whole:.1f} steps."
