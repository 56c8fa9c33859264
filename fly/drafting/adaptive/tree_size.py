"""Size of proposed trees, as many tokens as pay.  A tree is complete before it is cut: its end goes
where it brings less than the same time does elsewhere.  The price is that of chains
(fly/drafting/adaptive/length.py)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from typing import Any

from fly.drafting.adaptive.round_times import RoundCosts
from fly.drafting.base import Rows
from fly.drafting.retrieval.draft_tree import DraftTree, Kind

FIRST_NODES = 16  # tokens at most in the first trees
FIRST_ROUNDS = 3  # of every size of batch
PROBE_NODES = 4  # tokens at most to see whether trees pay again
KEPT_DECAY = 0.995  # of what was learned, per round
HOPE = 3  # tokens, as many kept as is hoped for, that are believed in before any was seen


class KeptKinds:
    """Rates at which tokens of each kind were kept, of those that follow a kept one."""

    def __init__(self) -> None:
        """Hopeful while little is known, so that it is tried."""
        self._kept: dict[Kind, float] = {}
        self._seen: dict[Kind, float] = {}

    def probability(self, kind: Kind) -> float:
        """That a token is kept if the one before it is."""
        hoped = 1 / (2 + kind[1])
        return (self._kept.get(kind, 0.0) + HOPE * hoped) / (self._seen.get(kind, 0.0) + HOPE)

    def expected(self, tree: DraftTree) -> list[float]:
        """The probability of every token of a tree that the branch up to it is kept."""
        expected: list[float] = []
        for parent, kind in zip(tree.parents, tree.kinds, strict=True):
            above = expected[parent] if parent >= 0 else 1.0
            expected.append(above * self.probability(kind))
        return expected

    def note(self, tree: DraftTree, kept: Container[int]) -> None:
        """Of a tree the tokens at these places were kept."""
        for place, (parent, kind) in enumerate(zip(tree.parents, tree.kinds, strict=True)):
            if parent == -1 or parent in kept:
                self._seen[kind] = self._seen.get(kind, 0.0) + 1
                self._kept[kind] = self._kept.get(kind, 0.0) + (place in kept)

    def renew(self) -> None:
        """A round has passed."""
        for sums in (self._kept, self._seen):
            for kind in sums:
                sums[kind] *= KEPT_DECAY


class TreePace:
    """Cuts the trees of every round, and learns from what became of them.

    A token is worth the probability that the branch up to it is accepted.  Learned are how often
    tokens of each kind were kept after a kept one, and how long one token more takes: little on an
    accelerator at small batches, much where the target is bound by computing.

    What it settles depends on the clock, so text that depends on what is offered may not be paced.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` returns seconds."""
        self.kinds = KeptKinds()
        self.costs = RoundCosts(clock)
        self._num_trees: Counter[int] = Counter()  # rounds with a tree, by size of batch
        self._sizes: Counter[int] = Counter()
        # Of the round that is not committed yet.
        self._is_asked = False  # not where another drafter offers
        self._trees: Sequence[DraftTree] = []

    def begin(self, rows: Rows) -> None:
        """A round begins."""
        self._is_asked = True
        self.costs.begin(rows)

    def give_up(self) -> None:
        """The round ends without a commit."""
        self._is_asked = False

    def cut(self, trees: Sequence[DraftTree]) -> None:
        """Leave of every tree the beginning that pays."""
        self._trees = trees
        size = self._settle(trees)
        for tree in trees:
            tree.cut(size)

    def _settle(self, trees: Sequence[DraftTree]) -> int:
        """Tokens of the largest tree to be offered."""
        count, largest = len(trees), max(map(len, trees), default=0)
        times = self.costs.times
        if largest == 0 or not times.knows_plain(count):
            return 0
        gains = [0.0] * largest  # of the tokens at one place of all trees
        for tree in trees:
            for place, probability in enumerate(self.kinds.expected(tree)):
                gains[place] += probability
        # Where one of the two was not measured at this size of batch, another's times are compared.
        size = times.compared(count)
        plain = times.plain(size)
        price = self.costs.elsewhere(count, plain)  # tokens per second
        seconds = times.speculative(size, range(1, largest + 1))
        best, most, gained = 0, -price * plain, 0.0
        for place, (gain, taken) in enumerate(zip(gains, seconds, strict=True)):
            gained += gain
            if gained - price * taken > most:
                best, most = place + 1, gained - price * taken
        if best == 0:
            # Times change as texts do.
            tried = min(PROBE_NODES, largest)
            lost = self.costs.lost(count, tried, sum(gains[:tried]))
            return PROBE_NODES if self.costs.probes.is_due(lost) else 0
        self.costs.probes.reset()
        is_first = self._num_trees[count.bit_length()] < FIRST_ROUNDS
        return min(best, FIRST_NODES) if is_first else best

    def end(self, rows: Rows) -> None:
        """The rows hold what became of the round."""
        if not self._is_asked:
            return
        self._is_asked = False
        largest = max(map(len, self._trees), default=0)
        for tree, gained in zip(self._trees, self.costs.end(rows, largest), strict=True):
            self.kinds.note(tree, set(tree.path(gained)))
        self.kinds.renew()
        self._num_trees[len(rows).bit_length()] += largest > 0
        self._sizes[largest] += 1

    def report(self) -> dict[str, Any]:
        """Rounds by the tokens of their largest tree, plain ones first, and small trees tried."""
        sizes = {str(size): number for size, number in sorted(self._sizes.items())}
        return {"rounds_by_tree_size": sizes, "probes": self.costs.probes.number}
