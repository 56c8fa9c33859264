"""Plain rounds in between, which measure how fast speculation is.  One round in a hundred proposes
nothing; its time is compared with the time that the rounds before it, of as many rows, took for as
many tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fly.engine.batch import Row
from fly.engine.statistics import Statistics

if TYPE_CHECKING:
    from fly.config import Setup

EVERY = 100  # rounds of which the last one is plain
WARM_UP = 1  # first plain rounds, not counted: kernels are chosen, caches are cold
FEWEST_OTHERS = 5  # rounds of as many rows that a plain one is compared with
FEWEST_TIMED = 3  # plain rounds, for any statement
NOISE = 0.3  # two standard errors of the speeds' ratio behind a single plain round


@dataclass
class _Others:
    """Rounds of one size of batch since the last timed one."""

    rounds: int = 0
    seconds: float = 0.0
    tokens: int = 0


class PlainRounds:
    """Decides when a round is plain, and counts what came of it.

    Greedy text is the target's own either way.  A sampled row's draws depend on how many rounds it
    has had, so a plain one would change its text with its neighbours: a batch that has such a row
    waits.
    """

    def __init__(self, *, spares_sampled: bool = True) -> None:
        """Nothing was timed.  `spares_sampled`: wait while a row samples."""
        self._spares_sampled = spares_sampled
        self._since = 0  # rounds
        self._num_timed = 0
        self._others: dict[int, _Others] = {}
        self._is_timed = False  # the round that is not noted yet
        self._num_tokens = 0  # in its rows, before it

    def limits(self, rows: Sequence[Row], limits: Sequence[int]) -> list[int]:
        """The most tokens to propose to every row: none in a round that is to be timed."""
        is_spared = self._spares_sampled and any(row.is_sampled for row in rows)
        self._is_timed = self._since + 1 >= EVERY and not is_spared
        self._num_tokens = sum(len(row.ids) for row in rows)
        return [0] * len(limits) if self._is_timed else list(limits)

    def note(self, rows: Sequence[Row], seconds: float) -> None:
        """The round is committed, and took so long."""
        self._since += 1
        if self._is_timed:
            self._compare(rows, seconds)
            self._since, self._others = 0, {}
            return
        others = self._others.setdefault(len(rows), _Others())
        others.rounds += 1
        others.seconds += seconds
        others.tokens += sum(len(row.ids) for row in rows) - self._num_tokens

    def _compare(self, rows: Sequence[Row], seconds: float) -> None:
        """Count a timed round in equal shares, if there is anything to compare it with."""
        self._num_timed += 1
        others = self._others.get(len(rows), _Others())
        if self._num_timed <= WARM_UP or others.rounds < FEWEST_OTHERS:
            return
        for row in rows:
            row.statistics.timed_rounds += 1 / len(rows)
            row.statistics.timed_plain_s += seconds / len(rows)
            row.statistics.timed_usual_s += others.seconds / others.tokens


def remark(pooled: Statistics, setup: Setup, batch_size: int | str) -> str | None:
    """The warning where speculation was slower than plain decoding, and what to change; None where
    it was not, or not clearly.

    Args:
        pooled: counters of the requests.
        setup: what they were decoded with.
        batch_size: rows decoded at once.
    """
    count, speed = round(pooled.timed_rounds), pooled.by_plain
    if speed is None or count < FEWEST_TIMED or speed >= 1 - NOISE / math.sqrt(count):
        return None
    traits = setup.traits
    advice = ["other arms" if traits.is_timed else "a smaller spd_k"]
    if setup.draft_length == "fixed" and not (traits.is_tree or traits.is_timed):
        advice.append("draft_length=adaptive")
    if batch_size != 1:
        advice.append("a smaller batch")
    return (
        f"speculation was slower than plain decoding here ({speed:.2f} times its speed, {count} "
        f"plain rounds timed): use {', '.join(advice)}, or use_sd=false"
    )
