"""Costs of rounds, measured on real decodes.  They explain in plain steps of the target why a
method is slow or fast, with one sentence of advice, and price the settings of a sweep in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fly.engine.statistics import Statistics
from fly.engine.statistics import ratio as share_of
from fly.errors import ConfigError
from fly.formats.comparison import Acceptance, Cost
from fly.stats.records import Interval
from fly.workbench.methods import Method

WORTHWHILE = 1.05  # predicted gain from which another K is advised
DEAR_DRAFT = 0.5  # of a plain step
DEAR_VERIFICATION = 2.0  # plain steps
DEAR_OVERHEAD = 0.3  # of a round
STILL_KEPT = 0.5  # of the last drafted token: below, more of them would be wasted

Floats = NDArray[np.float64]
# How often each of n things counts, in every resample.  n -> [R, n].
Resample = Callable[[int], Floats]

NUM_RESAMPLES = 2000
LEVEL = 0.95
METHOD = (
    "rounds times measured seconds per round; percentile bootstrap over documents and over the "
    "measured items"
)


@dataclass(frozen=True)
class RoundCost:
    """Parts of a round, in plain steps of the target.

    A round of K drafted tokens costs K draft forwards, one verification and an overhead, and brings
    tau tokens; plain decoding pays a step and its overhead for each.  The ideal speedup counts
    forwards only, with a verification as expensive as a plain step (Leviathan et al., arXiv
    2211.17192, theorem 3.8 with tau measured instead of assumed).
    """

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
    step = share_of(plain.seconds_target, plain.plain)
    if not step or not own.rounds:
        return None
    plain_rest = (plain.seconds_acceptance + plain.seconds_rest + plain.seconds_draft) / plain.plain
    verifying = own.seconds_target - own.plain * step
    return RoundCost(
        draft_forward=(share_of(own.seconds_draft, own.draft_forwards) or 0.0) / step,
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


# --- in seconds, of settings of a sweep


@dataclass(frozen=True)
class Price:
    """Seconds, in every resample."""

    per_round: Floats  # [R] of a single row
    per_prompt_token: Floats  # [R] of prefill

    def rate(self, counts: Floats) -> Floats:
        """Tokens per second from sums [R, 3] of rounds, prompt tokens and emitted tokens.  [R]."""
        rounds, prompt_tokens, emitted = counts.T
        return ratio(emitted, rounds * self.per_round + prompt_tokens * self.per_prompt_token)

    def towards(self, other: Price, share: float) -> Price:
        """On the line to another price."""
        return Price(
            self.per_round + share * (other.per_round - self.per_round),
            self.per_prompt_token + share * (other.per_prompt_token - self.per_prompt_token),
        )


@dataclass(frozen=True)
class MeasuredRounds:
    """Items that were decoded on their own, with one drafter and one K."""

    items: Floats  # [n, 4] rounds, seconds without prefill, prompt tokens, seconds of prefill

    @classmethod
    def of(cls, items: Sequence[Statistics]) -> MeasuredRounds:
        """Read the statistics of real decodes (Result.statistics).

        Raises:
            ConfigError: there are none, or they took no rounds or no time.
        """
        table = np.array(
            [
                (
                    item.rounds + item.plain,
                    item.seconds - item.seconds_prefill,
                    item.prompt_tokens,
                    item.seconds_prefill,
                )
                for item in items
            ],
            dtype=np.float64,
        ).reshape(-1, 4)
        if not (table.sum(axis=0)[:2] > 0).all():
            raise ConfigError(
                "no rounds were measured, so nothing can be told about speed",
                fix="decode some items of every drafter on their own first",
            )
        return cls(table)

    def price(self, resample: Resample) -> Price:
        """What rounds and prompts cost."""
        rounds, seconds, prompt_tokens, prefill = (resample(len(self.items)) @ self.items).T
        return Price(ratio(seconds, rounds), ratio(prefill, prompt_tokens))


@dataclass(frozen=True)
class PriceTable:
    """Costs of rounds by drafter and K, at the batch size they were measured at.

    A shared decode has no wall time of its own, so its rounds are counted, and what a round costs
    is measured on decodes of the same drafter.
    """

    target: MeasuredRounds  # decoding plainly in the same engine
    drafting: Mapping[str, Mapping[int, MeasuredRounds]]  # by the drafter's name and K

    @classmethod
    def calibrate(
        cls,
        target: Sequence[Statistics],
        drafting: Mapping[str, Mapping[int, Sequence[Statistics]]],
    ) -> PriceTable:
        """Read the statistics of real decodes: of the plain target, and of each drafter at its
        smallest and its largest K at least.

        Raises:
            ConfigError: something was not measured.
        """
        measured = {
            name: {k: MeasuredRounds.of(items) for k, items in sorted(by_k.items())}
            for name, by_k in drafting.items()
        }
        return cls(MeasuredRounds.of(target), measured)

    def speedup(
        self,
        drafter: str,
        k: int,
        point: Sequence[Statistics],
        target: Sequence[Statistics],
        documents: Sequence[int] | None = None,
        *,
        seed: int = 0,
        num_resamples: int = NUM_RESAMPLES,
    ) -> Interval:
        """A point's tokens per second by the plain target's, both from counted rounds.

        Args:
            drafter: as it was calibrated.
            k: the point's spd_k.
            point: per item, what the point counted; seconds in it are not looked at.
            target: the same of the target's plain answers to the same items.
            documents: which document an item belongs to; None: each to one of its own.
            seed: of the resampling.
            num_resamples: how often.

        Raises:
            ConfigError: see `price`.
            ValueError: there are no items, or not one of each for every item.
        """
        owners = range(len(point)) if documents is None else documents
        if not point or not len(point) == len(target) == len(owners):
            raise ValueError(
                f"{len(point)} items of the point, {len(target)} of the target, "
                f"{len(owners)} documents"
            )
        place = {document: at for at, document in enumerate(dict.fromkeys(owners))}
        sums = np.zeros((2, len(place), 3))
        for side, items in enumerate((point, target)):
            np.add.at(sums[side], [place[owner] for owner in owners], _counts(items))
        rng = np.random.default_rng(seed)

        def resample(n: int) -> Floats:
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=num_resamples)
            return drawn.astype(np.float64)

        estimate = self._ratio(drafter, k, sums, each_once)[0]
        spread = self._ratio(drafter, k, sums, resample)
        spread = spread[np.isfinite(spread)]
        if not np.isfinite(estimate) or not len(spread):
            return Interval(estimate=None, low=None, high=None, method="nothing was decoded")
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(spread, [tail, 1 - tail])
        return Interval(estimate=float(estimate), low=float(low), high=float(high), method=METHOD)

    def _ratio(self, drafter: str, k: int, sums: Floats, resample: Resample) -> Floats:
        """Speedups [R] from the counts of point and target by document, [2, documents, 3]; both
        sides of a document are drawn together.
        """
        weights = resample(sums.shape[1])
        point = self.price(drafter, k, resample).rate(weights @ sums[0])
        return ratio(point, self.target.price(resample).rate(weights @ sums[1]))

    def price(self, drafter: str, k: int, resample: Resample) -> Price:
        """Measured, or on the line between the nearest K that were.

        Raises:
            ConfigError: neither this K was measured, nor a smaller and a larger one.
        """
        known = self.drafting.get(drafter, {})
        if k in known:
            return known[k].price(resample)
        below = max((at for at in known if at < k), default=None)
        above = min((at for at in known if at > k), default=None)
        if below is None or above is None:
            raise ConfigError(
                f"the cost of rounds of drafter {drafter!r} at spd_k {k} was not measured; known "
                f"are {', '.join(map(str, known)) or 'none'}",
                fix="decode some items with its smallest and its largest spd_k on their own first",
            )
        share = (k - below) / (above - below)
        return known[below].price(resample).towards(known[above].price(resample), share)


def each_once(n: int) -> Floats:
    """The items as they are."""
    return np.ones((1, n))


def ratio(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole != 0)


def _counts(items: Sequence[Statistics]) -> Floats:
    """Rounds, prompt tokens and emitted tokens of every item.  [n, 3]."""
    rows = [(item.rounds + item.plain, item.prompt_tokens, item.emitted) for item in items]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
