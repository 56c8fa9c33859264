"""Policies of a bandit (UCB1, Thompson sampling, Hedge).  Sources: UCB1 and UCB1-normal, Auer et
al. 2002 (doi 10.1023/A:1013689704352), discounted as by Garivier and Moulines (arXiv 0805.3415);
Hedge, Freund and Schapire 1997 (doi 10.1006/jcss.1997.1504); on drafters: BanditSpec, arXiv
2505.15141, and Not-a-Bandit, arXiv 2510.20064."""

# An arm's reward is tokens per second, estimated as a sum over a sum: a mean of ratios favours
# noisy arms.  Old rounds count less, and so do old pulls, else exploring would end while the data
# is forgotten.  The error of an estimate is measured: the gain of a round spreads by the same share
# of its mean in all arms, and an arm with fewer pulls is less certain.

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field

from fly.drafting.adaptive.round_times import LARGEST, RoundSpeed, Sum

# As if so many rounds had been seen to spread so much: the first one or two show nothing of their
# spread, and arms that never spread are tried again all the same.
PRIOR_ROUNDS, PRIOR_NOISE = 2.0, 0.5
MOST_NOISE = 1.0  # gains of 1 to K+1 tokens hardly spread more; stalls of the machine do
Square: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=LARGEST**2)]
LEAST_PULLS = 1e-9


@dataclass
class ArmSums(RoundSpeed):
    """Sums of what one arm brought."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    # Of tokens and seconds, for the spread of their ratio; discounted too.
    squares: tuple[Square, Square, Square] = (0.0, 0.0, 0.0)
    weight: Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)] = 0.0  # log, of hedge
    all_tokens: Sum = 0.0
    all_seconds: Sum = 0.0

    def note(self, tokens: float, seconds: float) -> None:
        """One round."""
        super().note(tokens, seconds)
        new = tokens * tokens, tokens * seconds, seconds * seconds
        tt, ts, ss = (old + more for old, more in zip(self.squares, new, strict=True))
        self.squares = tt, ts, ss
        self.all_tokens += tokens
        self.all_seconds += seconds

    def forget(self, share: float) -> None:
        """Let `share` of what is known stand."""
        super().forget(share)
        tt, ts, ss = (share * value for value in self.squares)
        self.squares = tt, ts, ss

    @property
    def spread(self) -> float:
        """Squared deviations of its rounds from `rate`, summed, in units of their mean gain."""
        if self.tokens <= 0 or self.pulls <= 0:
            return 0.0
        (tt, ts, ss), rate = self.squares, self.rate
        deviations = tt - 2 * rate * ts + rate * rate * ss
        mean = self.tokens / self.pulls
        return max(0.0, deviations / (mean * mean))


def untried(arms: Sequence[ArmSums]) -> int | None:
    """The first arm that was never pulled."""
    return next((index for index, arm in enumerate(arms) if arm.all_pulls == 0), None)


def ucb1(arms: Sequence[ArmSums], explore: float, rng: random.Random) -> int:
    """The best upper bound; `explore` scales its width."""
    first = untried(arms)
    if first is not None:
        return first
    width = explore * math.sqrt(2 * math.log(max(math.e, sum(arm.pulls for arm in arms))))
    bounds = [rate + width * error for rate, error in estimates(arms)]
    return bounds.index(max(bounds))


def thompson(arms: Sequence[ArmSums], explore: float, rng: random.Random) -> int:
    """The best of one draw from each arm's normal posterior; `explore` scales its width."""
    first = untried(arms)
    if first is not None:
        return first
    draws = [rng.gauss(rate, explore * error) for rate, error in estimates(arms)]
    return draws.index(max(draws))


def estimates(arms: Sequence[ArmSums]) -> list[tuple[float, float]]:
    """Every arm's rate and its standard error, in units of the best rate: an arm that seems slow
    may be as wrong about itself as the best one.  Where nothing has any rate, all have 0.
    """
    best = max(arm.rate for arm in arms) or 1.0
    noise = noise_of(arms)
    return [(arm.rate / best, noise / math.sqrt(max(arm.pulls, LEAST_PULLS))) for arm in arms]


def noise_of(arms: Sequence[ArmSums]) -> float:
    """Standard deviation of one round's gain by its mean, pooled over the arms."""
    rounds = PRIOR_ROUNDS
    spread = PRIOR_ROUNDS * PRIOR_NOISE**2
    for arm in arms:
        spread += arm.spread
        rounds += arm.pulls * (1 - 1 / max(1, arm.all_pulls))  # its mean is estimated, too
    return min(MOST_NOISE, math.sqrt(spread / rounds))


def shares(arms: Sequence[ArmSums], mixing: float) -> list[float]:
    """Probabilities from log weights, `mixing` of them spread evenly."""
    top = max(arm.weight for arm in arms)
    raw = [math.exp(arm.weight - top) for arm in arms]
    total = sum(raw)
    return [(1 - mixing) * one / total + mixing / len(arms) for one in raw]


def by_weight(arms: Sequence[ArmSums], explore: float, rng: random.Random) -> int:
    """Drawn by the arms' weights; `explore` is the share that is spread evenly."""
    return rng.choices(range(len(arms)), shares(arms, explore))[0]


def learn_hedge(arms: Sequence[ArmSums], gains: Sequence[float], discount: float) -> None:
    """Weigh the gains (0 to 1) that every arm had or would have had, at the learning rate that is
    best for as many rounds as count.
    """
    rounds = 1 / (1 - discount) if discount < 1 else sum(arm.all_pulls for arm in arms)
    rate = math.sqrt(8 * math.log(max(2, len(arms))) / max(1.0, rounds))
    for arm, gain in zip(arms, gains, strict=True):
        arm.weight = discount * arm.weight + rate * gain


POLICIES = {"ucb1": ucb1, "thompson": thompson, "hedge": by_weight}
# Where `explore` is not set.  Of 0.3 to 1, for those two, the least that follows arms which swap
# in 98 of 100 simulated runs (seeds 1000 to 1199; test_policies.py has others).
EXPLORE = {"ucb1": 0.4, "thompson": 0.6, "hedge": 0.05}
