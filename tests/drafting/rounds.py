"""Rounds of a bandit in virtual time: what they bring is drawn, what they take is prescribed."""

import math
import random
from types import SimpleNamespace

import torch

from fly.drafting import Drafter, Proposal
from fly.drafting.adaptive.bandit import ArmSettings, BanditDrafter, BanditSettings


class World:
    """Rounds whose tokens and seconds are what the pulled arm's law says."""

    def __init__(self, laws, seed=0, num_rows=1, **settings):
        self.laws = list(laws)  # by arm: (round, random numbers) -> (tokens of a row, seconds)
        self.now = 0.0
        self.rng = random.Random(seed)
        self.round = 0
        self.pulls = []
        arms = [ArmSettings(drafter="ngram", k=k + 1) for k in range(len(laws))]
        world = self
        nothing = Proposal.from_lists([[] for _ in range(num_rows)], torch.device("cpu"))

        class Source(Drafter):
            def propose(self, rows, limits, choose=None):
                world.pulls.append(limits[0] - 1)
                return nothing

        self.bandit = BanditDrafter(
            BanditSettings(arms=arms, **settings),
            [Source()],
            [(0, k + 1) for k in range(len(laws))],
            clock=lambda: self.now,
        )
        self.rows = [SimpleNamespace(ids=[1, 2, 3], index=n, key="task") for n in range(num_rows)]
        self.row = self.rows[0]

    def play(self, num_rounds):
        """Tokens and seconds of these rounds."""
        tokens = seconds = 0
        limits = [99] * len(self.rows)
        for _ in range(num_rounds):
            self.bandit.propose(self.rows, limits)
            law = self.laws[self.pulls[-1]]
            for row in self.rows:
                brought, took = law(self.round, self.rng)
                row.ids += [0] * brought
                tokens += brought
            self.now += took
            seconds += took
            self.bandit.commit(self.rows)
            self.round += 1
        return tokens, seconds


def steady(mean, seconds=1.0):
    """About `mean` tokens in a round."""
    return lambda turn, rng: (max(1, round(rng.gauss(mean, mean / 4))), seconds)


K = 6


def accepting(rate):
    """Rounds of a second: the accepted prefix of K tokens, each accepted at this rate, and one."""
    log = math.log(rate)
    return lambda turn, rng: (1 + min(K, int(math.log(1 - rng.random()) / log)), 1.0)


def mean_gain(rate):
    """Tokens that a round of `accepting` brings on average."""
    return sum(rate**length for length in range(K + 1))
