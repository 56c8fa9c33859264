"""Acceptance probabilities of drafted tokens, by the draft's confidence.  They give what a proposal
is expected to bring if it ends here, or goes on.  Asked while a proposal grows: plain numbers,
little work."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

# Confidences at which a bin begins.  Those near 1 differ most in what they promise.
_EDGES = [0.2, 0.35] + [1 - 2.0**-power for power in range(1, 12)]
NUM_BINS = len(_EDGES) + 1
SURE = 6  # bins from here on, of confidences from 15/16, change no plan
UNKNOWN = NUM_BINS  # in the place of a bin: confidence not known; the mean stands
KEPT_DECAY = 0.995  # of what was learned, per round
HOPE = 3  # tokens, nine of ten kept, that are believed in before any was seen


def bin_of(confidence: float) -> int:
    """The place of its bin."""
    return bisect(_EDGES, confidence)


class AcceptanceRates:
    """Rates at which tokens of each confidence were kept, of those before which everything was."""

    def __init__(self) -> None:
        """High while little is known, so that it is tried."""
        self.kept = [0.0] * (NUM_BINS + 1)
        self.seen = [0.0] * (NUM_BINS + 1)
        self.renew()

    def note(self, place: int, is_kept: bool) -> None:
        """A token of bin `place`."""
        self.seen[place] += 1
        self.kept[place] += is_kept

    def renew(self) -> None:
        """A round has passed: what was noted counts from now on, and what came before it less."""
        self.mean = (sum(self.kept) + 0.9 * HOPE) / (sum(self.seen) + HOPE)
        prior = 2 * self.mean
        self.of = [
            (kept + prior) / (seen + 2) for kept, seen in zip(self.kept, self.seen, strict=True)
        ]
        self.of[UNKNOWN] = self.mean
        self.kept = [value * KEPT_DECAY for value in self.kept]
        self.seen = [value * KEPT_DECAY for value in self.seen]


class KeptTokens:
    """Acceptance probabilities of tokens that enough others follow in their proposal for the rule
    to loosen them, and of those at its end; of one task.
    """

    def __init__(self, tail: int, longest: int) -> None:
        """The last `tail` tokens of a proposal, of `longest` at most, are its end."""
        self.tail = tail
        self.longest = longest
        self.inner, self.last = AcceptanceRates(), AcceptanceRates()
        self.asked = self.offered = float(HOPE)
        self._look_ahead()

    def note(self, bins: Sequence[int], num_kept: int, length: int) -> None:
        """One row's proposal.

        Args:
            bins: of its tokens up to an end token.
            num_kept: of all its tokens.
            length: of the proposal; 0 if nothing was found to offer.
        """
        self.asked += 1
        self.offered += length > 0
        first_last = length - self.tail
        for index, place in enumerate(bins[: num_kept + 1]):
            table = self.inner if index < first_last else self.last
            table.note(place, index < num_kept)

    def renew(self) -> None:
        """A round has passed."""
        self.inner.renew()
        self.last.renew()
        self.asked *= KEPT_DECAY
        self.offered *= KEPT_DECAY
        self._look_ahead()

    @property
    def found(self) -> float:
        """How often there was anything to offer."""
        return self.offered / self.asked

    def _look_ahead(self) -> None:
        """`ahead`: tokens that the next ones are expected to bring, by their number, if they are
        offered, all before them are kept, and the last of them end the proposal.
        """
        at_end = [0.0]
        probability = 1.0
        for _ in range(self.tail):
            probability *= self.last.mean
            at_end.append(at_end[-1] + probability)
        self.ahead = at_end[: self.longest + 1]
        alive, gained = 1.0, 0.0
        for _ in range(len(at_end), self.longest + 1):
            alive *= self.inner.mean
            gained += alive
            self.ahead.append(gained + alive * at_end[-1])


class Growing:
    """One row's proposal while it grows."""

    def __init__(self, task: KeptTokens, limit: int) -> None:
        """Nothing is drafted yet.

        Args:
            task: what is known of such rows.
            limit: tokens that are wanted at most.
        """
        self.task = task
        self.limit = limit
        self.bins: list[int] = []
        self.has_ended = False  # its last token ends the answer: what follows brings nothing
        self.followers = 0  # tokens after that one
        # After the first tokens, were all of them inner ones: the probability that all are kept,
        # and what they bring.
        self.alive = [1.0]
        self.gained = [0.0]

    @property
    def is_complete(self) -> bool:
        """Whether no further token of it counts."""
        return self.has_ended or len(self.bins) >= self.limit

    def note(self, place: int) -> None:
        """Another token is drafted."""
        if self.has_ended:
            self.followers += len(self.bins) + self.followers < self.limit
        if self.is_complete:
            return
        self.bins.append(place)
        alive = self.alive[-1] * self.task.inner.of[place]
        self.alive.append(alive)
        self.gained.append(self.gained[-1] + alive)

    def if_ended(self) -> float:
        """Tokens that it is expected to bring as it is."""
        length = len(self.bins)
        first_last = min(max(0, length + self.followers - self.task.tail), length)
        probability, gained = self.alive[first_last], self.gained[first_last]
        of = self.task.last.of
        for place in self.bins[first_last:]:
            probability *= of[place]
            gained += probability
        return gained


def best_further(rows: Sequence[Growing], most: int, price: float) -> int:
    """How many more tokens to draft in every row.

    Fewer than make the tokens so far inner ones are not thought of, but where no more are left.

    Args:
        rows: with as many tokens each, but for those that are complete.
        most: that are left.
        price: tokens that the time of one more would bring elsewhere.

    Returns:
        0 where it is best to end here.
    """
    tasks: dict[KeptTokens, float] = {}
    best, found = 0, 0.0
    for row in rows:
        if not row.is_complete:
            tasks[row.task] = tasks.get(row.task, 0.0) + row.alive[-1]
        if row.has_ended or not row.is_complete:
            found += row.if_ended() - row.gained[-1]
    for number in range(min(max(1, rows[0].task.tail), most), most + 1):
        worth = sum(alive * task.ahead[number] for task, alive in tasks.items()) - price * number
        if worth > found:
            best, found = number, worth
    return best
