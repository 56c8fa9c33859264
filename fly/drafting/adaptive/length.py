"""Draft length K of each proposal, fixed or adaptive.  Adaptive: keep drafting while the expected
accepted tokens exceed what the same time yields at the current throughput.  The rule is SpecDec++'s
(arXiv 2405.19715) with a measured price as threshold; its objective is TurboSpec's goodput (arXiv
2406.14066)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fly.drafting.adaptive.acceptance_rates import (
    SURE,
    UNKNOWN,
    Growing,
    KeptTokens,
    best_further,
    bin_of,
)
from fly.drafting.adaptive.round_times import RoundCosts
from fly.drafting.base import Pace, Proposal, Rows

FIRST_LEN = 8  # tokens at most in the first rounds, besides those that the rule cannot loosen
FIRST_ROUNDS = 3  # of every size of batch
PROBE_LEN = 4  # tokens proposed to see whether speculation pays again, besides the same
MARGIN = 1.02  # by which speculation must be better than plain decoding
SURPRISED = 0.25  # doubtful tokens since a length was planned, per row, to plan it anew
ROWS_PER_TOKEN = 8  # that may go unread: the more rows there are, the less one of them shows


class DraftLength:
    """Bounds the proposals of every round; this one not at all.  It is called in this order."""

    pace: Pace | None = None  # what a drafter may ask between its tokens

    @property
    def is_idle(self) -> bool:
        """Whether no drafting is expected soon."""
        return False

    def limits(self, rows: Rows, limits: Sequence[int]) -> list[int]:
        """The most tokens to propose to every row, of those that are wanted."""
        return list(limits)

    def proposed(self, proposal: Proposal) -> None:
        """The drafter has just returned this."""

    def observe(self, kept: Sequence[int]) -> None:
        """How many proposed tokens every row keeps."""

    def commit(self, rows: Rows) -> None:
        """The rows' ids now hold what became of the proposal."""

    def report(self) -> dict[str, Any]:
        """What was chosen, fit for JSON."""
        return {}


class AdaptiveLength(DraftLength):
    """Adaptive length, as many tokens as pay.

    The probabilities are learned from what became of tokens of like confidence, the times from the
    rounds.  Where no proposal pays the target decodes plainly, and a short proposal is tried again
    now and then.

    A length is settled by the tokens before its end alone, so native text (sampled: its
    distribution) does not change.  Plain rounds that are timed again now and then are the engine's
    (plain_rounds).
    """

    def __init__(
        self,
        k: int,
        tail: int,
        eos_ids: Container[int] = (),
        clock: Callable[[], float] = time.perf_counter,
        *,
        is_asked: bool = False,
        fixed_for: Callable[[Rows], bool] | None = None,
    ) -> None:
        """At most `k` tokens.

        Args:
            k: the most.
            tail: tokens at a proposal's end that the rule cannot loosen.
            eos_ids: after a token of these no other is worth drafting.
            clock: gives seconds.
            is_asked: the drafter calls `goes_on` between its tokens.
            fixed_for: whether these rows are offered `k` tokens, whatever pays.
        """
        self.k = k
        self.pace = self
        self.costs = RoundCosts(clock)
        self._tail = tail
        self._eos_ids = eos_ids
        self._is_asked = is_asked
        self._fixed_for = fixed_for
        self._kept: dict[str, KeptTokens] = {}
        self._now = _LengthRound()
        self._lengths = [0] * (k + 1)

    @property
    def is_idle(self) -> bool:
        """Whether it did not pay lately."""
        return self.costs.probes.num_idle > 1

    def limits(self, rows: Rows, limits: Sequence[int]) -> list[int]:
        """At most as many tokens as pay."""
        self.costs.begin(rows)
        self._now = _LengthRound(
            rows=[
                Growing(self._known(row.key), limit)
                for row, limit in zip(rows, limits, strict=True)
            ],
        )
        length = self._decide(rows) if any(limits) else 0
        shortened = [min(row.limit, length) for row in self._now.rows]
        self._now.most = max(shortened)
        self._now.begin = self.costs.clock()
        return shortened

    def proposed(self, proposal: Proposal) -> None:
        """Time the drafting."""
        self._now.drafted = proposal.ids.shape[1]  # goes_on is not called after the last one
        self._read()
        self._now.lengths = list(proposal.host_lengths)
        self._now.drafting = self._drafting(self.costs.clock() - self._now.begin)

    def _drafting(self, proposing: float) -> float | None:
        """Seconds that grow with the proposal, of all that proposing took: as those between its
        tokens, since before the first one what the others accepted is read, too.  None where a
        single token does not show.
        """
        times = self._now.times
        if len(times) > 1:
            (fewer, begin), (more, end) = times[0], times[-1]
            return (end - begin) / (more - fewer) * max(self._now.lengths)
        return None if self._is_asked else proposing

    def _decide(self, rows: Rows) -> int:
        """The most tokens to draft in this round; 0 for a plain one."""
        if self._fixed_for is not None and self._fixed_for(rows):
            self._now.is_fixed = True
            return self.k
        count, times = len(rows), self.costs.times
        if not times.knows_plain(count):
            return 0
        length, rate = self._best(count)
        rate = self.costs.elsewhere(count, times.plain(count), rate)
        self._now.price = rate * times.step(count)
        if length > 0:
            self.costs.probes.reset()
            # Confidence may decide when to go on; without it a row gets what pays on average.
            is_first = self.costs.speed(count).all_pulls < FIRST_ROUNDS
            most = min(self.k, FIRST_LEN + self._tail) if is_first else self.k
            return most if self._is_asked else min(length, most)
        return self._probe(rows)

    def _probe(self, rows: Rows) -> int:
        """How many tokens to draft to see whether that pays again; 0 in most rounds."""
        growing = self._now.rows
        tried = growing
        if self._is_asked:
            # A model has to read what it drafts for, and its forwards take as long for one row of
            # a batch as for all.
            able = [place for place, row in enumerate(growing) if row.limit > 0]
            tried = [growing[min(able, key=lambda place: len(rows[place].ids))]]
        length = min(PROBE_LEN + self._tail, self.k)
        gained = sum(row.task.found * row.task.ahead[length] for row in tried)
        if not self.costs.probes.is_due(self.costs.lost(len(rows), length, gained)):
            return 0
        self._now.is_probe = True
        for row in growing:
            row.limit = row.limit if row in tried else 0
        return length

    def _best(self, count: int) -> tuple[int, float]:
        """The length whose tokens per second are most for `count` rows, by what is known of their
        tasks, and these; 0 where plain decoding is better.
        """
        # Where one of the two was not measured at this size of batch, another's times are compared.
        size = self.costs.times.compared(count)
        plain = self.costs.times.plain(size)
        best, rate = 0, count / plain
        least = rate * MARGIN
        seconds = self.costs.times.speculative(size, range(1, self.k + 1))
        tasks = Counter(row.task for row in self._now.rows).items()
        nothing = math.prod((1 - task.found) ** number for task, number in tasks)
        for length in range(1, self.k + 1):
            gained = sum(number * task.found * task.ahead[length] for task, number in tasks)
            expected = (1 - nothing) * seconds[length - 1] + nothing * plain
            found = (count + gained) / expected
            if found > max(rate, least):
                best, rate = length, found
        return best, rate

    def goes_on(self, tokens: Tensor, confidence: Tensor) -> int:
        """How many tokens to draft before they are looked at; 0: no more.

        Args:
            tokens: [B, n] just drafted, or [B].
            confidence: [B, n] what the draft gave to them, or [B].
        """
        now = self._now
        tokens, confidence = (part.reshape(len(part), -1) for part in (tokens, confidence))
        now.unread.append(torch.stack([tokens.double(), confidence.double()]))
        now.drafted += tokens.shape[1]
        if now.drafted < now.next_read:
            return now.next_read - now.drafted
        self._read()
        length = now.drafted
        if length >= now.most or now.is_probe or now.is_fixed:
            now.next_read = now.most
            return max(0, now.most - length)
        if length >= now.planned or now.surprises >= SURPRISED * len(now.rows):
            now.surprises = 0
            now.planned = length + best_further(now.rows, now.most - length, now.price)
        now.next_read = min(length + 1 + len(now.rows) // ROWS_PER_TOKEN, now.planned, now.most)
        return now.next_read - length if length < now.planned else 0

    def _read(self) -> None:
        """Look at what was drafted since the last time; a device is waited for, once."""
        now = self._now
        if not now.unread:
            return
        tokens, confidence = torch.cat(now.unread, 2).tolist()  # float64 holds every id
        now.times.append((now.drafted, self.costs.clock()))
        now.unread = []
        for row, its_tokens, values in zip(now.rows, tokens, confidence, strict=True):
            for token, value in zip(its_tokens, values, strict=True):
                is_new = not row.is_complete
                place = bin_of(value)
                row.note(place)
                if is_new:
                    row.has_ended = token in self._eos_ids
                    now.surprises += place < SURE or row.is_complete

    def _known(self, key: str) -> KeptTokens:
        if key not in self._kept:
            self._kept[key] = KeptTokens(self._tail, self.k)
        return self._kept[key]

    def observe(self, kept: Sequence[int]) -> None:
        """Learn which tokens were kept."""
        now = self._now
        if now.most == 0:
            return  # what is known does not fade while nothing is tried
        for row, length, count in zip(now.rows, now.lengths, kept, strict=True):
            if row.limit == 0:
                continue
            unknown = [] if row.is_complete else [UNKNOWN] * (length - len(row.bins))
            row.task.note(row.bins[:length] + unknown, count, length)
        for task in {row.task: None for row in now.rows}:
            task.renew()

    def commit(self, rows: Rows) -> None:
        """Learn what the round took."""
        now = self._now
        longest = max(now.lengths, default=0)
        self._lengths[min(longest, self.k)] += 1
        if not now.is_fixed:
            is_usual = longest > 0 and not now.is_probe
            self.costs.end(rows, longest, now.drafting, is_usual=is_usual)

    def report(self) -> dict[str, Any]:
        """Rounds by the longest proposal, plain ones first, and tries to speculate again."""
        used = {str(length): count for length, count in enumerate(self._lengths) if count}
        return {"rounds_by_draft_length": used, "probes": self.costs.probes.number}


@dataclass
class _LengthRound:
    """The round that is not committed yet."""

    begin: float = 0.0  # seconds, when drafting begins
    rows: list[Growing] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unread: list[Tensor] = field(default_factory=list)  # [2, B, n] tokens and confidence
    drafted: int = 0  # tokens in every row
    next_read: int = 0  # drafted tokens at which they are looked at
    times: list[tuple[int, float]] = field(default_factory=list)  # drafted tokens when looked at
    drafting: float | None = 0.0  # seconds
    most: int = 0
    planned: int = 0  # length, unless tokens surprise
    surprises: int = 0  # since it was planned
    price: float = 0.0  # tokens that the time of drafting one more would bring elsewhere
    is_probe: bool = False
    is_fixed: bool = False  # nothing was chosen
