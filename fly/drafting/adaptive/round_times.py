"""Cost model of rounds, learned while decoding.  It gives the time and tokens of a round for those
who choose how much to draft.  Plain rounds count apart from speculative ones, which take longer the
longer their longest proposal is.  Batches of like size are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import Field

from fly.drafting.base import Rows

DECAY = 0.99  # of what was measured before, per round measured
WARM_UP = 1  # first rounds of a kind: caches grow, kernels are chosen
# Times what was expected: something else had the machine.  Or had it before, if it is so much less.
OUTLIER = 2.5
MOST_OUTLIERS = 3  # in a row; then it is no outlier
TRUST = 1000.0  # squared tokens by which rounds differ, until they show more than plain ones do
SPEED_DECAY = 0.98  # of tokens and seconds, per round
ENOUGH = 10  # rounds before a speed counts
FIRST_PAUSE, LONGEST_PAUSE = 16, 1024  # plain rounds between two probes that cost little
PATIENCE = 50  # plain rounds before a probe, for each whose time it loses
LONGEST_WAIT = 4096  # however long the last one took: the machine may have stood still
LARGEST = 1e12  # of a sum that is read from a file: years of decoding make less
Sum: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=LARGEST)]


@dataclass
class RoundSpeed:
    """Tokens per second of some rounds, as a sum by a sum: a mean of ratios favours noisy ones.
    The first three are discounted.
    """

    pulls: Sum = 0.0  # rounds
    tokens: Sum = 0.0
    seconds: Sum = 0.0
    all_pulls: Annotated[int, Field(strict=True, ge=0, le=LARGEST)] = 0

    def note(self, tokens: float, seconds: float) -> None:
        """One round."""
        self.pulls += 1
        self.tokens += tokens
        self.seconds += seconds
        self.all_pulls += 1

    def forget(self, share: float) -> None:
        """Let `share` of what is known stand."""
        self.pulls *= share
        self.tokens *= share
        self.seconds *= share

    @property
    def rate(self) -> float:
        """Tokens per second; 0 where nothing is known."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class Probes:
    """Pauses before what does not pay is tried again: after FIRST_PAUSE rounds, and after twice as
    many each time that it still does not; longer where trying costs much."""

    def __init__(self) -> None:
        """It pays so far."""
        self.num_idle = 0  # rounds since it was tried
        self.pause = FIRST_PAUSE
        self.lost = 0.0  # by the last one, in plain rounds
        self.number = 0

    def reset(self) -> None:
        """It pays."""
        self.num_idle, self.pause, self.lost = 0, FIRST_PAUSE, 0.0

    def is_due(self, lost: float) -> bool:
        """It does not pay in this round; whether to try all the same, which is expected to lose the
        time of so many plain rounds.
        """
        self.num_idle += 1
        costly = min(PATIENCE * max(lost, self.lost), LONGEST_WAIT)
        if self.num_idle <= max(self.pause, costly):
            return False
        self.num_idle, self.pause = 0, min(2 * self.pause, LONGEST_PAUSE)
        self.number += 1
        return True


@dataclass
class CostSums:
    """Discounted sums over rounds."""

    weight: float = 0.0
    rows: float = 0.0
    length: float = 0.0
    seconds: float = 0.0
    drafting: float = 0.0  # seconds of these
    squares: float = 0.0  # of the differences in length between a round and the next
    products: float = 0.0  # of these and the differences in seconds that were not drafting
    last: tuple[int, float] | None = None
    plain: float = 0.0  # seconds of a plain round when this was last measured; 0: not known
    skipped: int = 0
    outliers: int = 0

    def note(self, rows: int, length: int, seconds: float, drafting: float) -> None:
        """One round."""
        rest = seconds - drafting
        step, change = (length - self.last[0], rest - self.last[1]) if self.last else (0, 0.0)
        self.last = length, rest
        self.weight = DECAY * self.weight + 1
        self.rows = DECAY * self.rows + rows
        self.length = DECAY * self.length + length
        self.seconds = DECAY * self.seconds + seconds
        self.drafting = DECAY * self.drafting + drafting
        self.squares = DECAY * self.squares + step * step
        self.products = DECAY * self.products + step * change

    def follow(self, plain: float) -> None:
        """What was measured takes as much more or less now as plain rounds do: these now take
        `plain` seconds.
        """
        drift = plain / self.plain if self.plain else 1.0
        self.plain = plain
        self.seconds *= drift
        self.drafting *= drift
        self.products *= drift
        if self.last is not None:
            self.last = self.last[0], drift * self.last[1]

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self.weight > 0

    @property
    def mean(self) -> float:
        """Seconds of a round."""
        return self.seconds / self.weight

    def verifying(self, plain: float) -> float:
        """Seconds of verifying one further token in every row, where a plain round takes `plain`.
        Differences from one round to the next are less bent by drift than the rounds themselves.
        """
        by_plain = max(0.0, (self.seconds - self.drafting) - plain * self.weight) / self.length
        found = (TRUST * by_plain + self.products) / (TRUST + self.squares)
        return min(max(found, 0.0), 2 * by_plain)


class RoundTimes:
    """Seconds of plain and speculative rounds.

    Times are noisy and drift, and the lengths are chosen by them: a line through the two would be
    bent.  So the time of a further token is put together: drafting it, which is measured apart, and
    verifying it, where plain rounds, of no drafted token, hold the line's other end.
    """

    def __init__(self) -> None:
        self._plain: dict[int, CostSums] = {}
        self._speculative: dict[int, CostSums] = {}

    def note(
        self, num_rows: int, length: int, seconds: float, drafting: float | None = 0.0
    ) -> None:
        """A round of `num_rows` rows whose longest proposal had `length` tokens.

        Args:
            num_rows: B
            length: 0 of a plain round.
            seconds: of the whole round.
            drafting: seconds of these in which the tokens were drafted; None: as usually.
        """
        place = num_rows.bit_length()
        lines = self._speculative if length else self._plain
        line = lines.setdefault(place, CostSums())
        if line.skipped < WARM_UP:
            line.skipped += 1
            return
        if line.is_known:
            expected = self.speculative(num_rows, [length])[0] if length else line.mean
            if seconds > OUTLIER * expected and line.weight > 3 and line.outliers < MOST_OUTLIERS:
                line.outliers += 1
                return
            if OUTLIER * seconds < expected:  # the others were the outliers
                line = lines[place] = CostSums(skipped=WARM_UP)
        line.outliers = 0
        if drafting is None:
            drafting = line.drafting / line.length * length if line.length else 0.0
        if length and self.knows_plain(num_rows):
            line.follow(self._plain[place].mean)
        line.note(num_rows, length, seconds, drafting)

    def knows_plain(self, num_rows: int) -> bool:
        """Whether a plain round of a batch of like size was measured."""
        line = self._plain.get(num_rows.bit_length())
        return line is not None and line.is_known

    def plain(self, num_rows: int) -> float:
        """Seconds of a plain round; of a batch of another size where none of this was measured."""
        line = _nearest(self._plain, num_rows.bit_length())
        assert line is not None
        return line.mean

    def speculative(self, num_rows: int, lengths: Sequence[int]) -> list[float]:
        """Seconds of speculative rounds of these lengths; while nothing is known as optimistic as
        can be, so that it is tried: no more than plain ones.  Where they were measured long ago,
        they take as much more or less now as plain ones do.
        """
        line = _nearest(self._speculative, num_rows.bit_length())
        if line is None:
            return [self.plain(num_rows)] * len(lengths)
        step, usual = self.step(num_rows), line.length / line.weight
        drift = self.plain(num_rows) / line.plain if line.plain else 1.0
        return [
            drift * max(line.mean + step * (length - usual), 0.05 * line.mean) for length in lengths
        ]

    def step(self, num_rows: int) -> float:
        """Seconds of one further token in all proposals."""
        line = _nearest(self._speculative, num_rows.bit_length())
        if line is None:
            return 0.0
        # Where no plain round of this size was measured, a row's tokens cost as much as at another.
        size = self.compared(num_rows)
        other = _nearest(self._speculative, size.bit_length())
        assert other is not None
        share = (line.rows / line.weight) / (other.rows / other.weight)
        return line.drafting / line.length + share * other.verifying(self.plain(size))

    def compared(self, num_rows: int) -> int:
        """Of the sizes of batch of which plain and speculative rounds are known, the nearest to
        `num_rows`, in rows.
        """
        both = [
            size
            for size, line in self._plain.items()
            if line.is_known and size in self._speculative and self._speculative[size].is_known
        ]
        place = num_rows.bit_length()
        if not both:
            return num_rows
        nearest = min(both, key=lambda size: abs(size - place))
        return num_rows if nearest == place else 2 ** (nearest - 1)


def _nearest(lines: Mapping[int, CostSums], place: int) -> CostSums | None:
    """The line measured at the nearest size of batch."""
    known = [size for size, line in lines.items() if line.is_known]
    return lines[min(known, key=lambda size: abs(size - place))] if known else None


class RoundWatch:
    """Seconds and new tokens of the round that is not committed yet."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self.clock = clock
        self._begin = 0.0
        self._lengths: list[int] = []  # of the rows' texts

    def begin(self, rows: Rows) -> None:
        """A round begins."""
        self._begin = self.clock()
        self._lengths = [len(row.ids) for row in rows]

    def stop(self, rows: Rows) -> tuple[float, list[list[int]]]:
        """The rows hold what became of it: its seconds, and every row's new tokens."""
        gains = [row.ids[old:] for row, old in zip(rows, self._lengths, strict=True)]
        return self.clock() - self._begin, gains


class RoundCosts(RoundWatch):
    """Record of what rounds take and bring, round by round."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        super().__init__(clock)
        self.times = RoundTimes()
        self.probes = Probes()
        self._speeds: dict[int, RoundSpeed] = {}  # of a row, by size of batch

    def speed(self, num_rows: int) -> RoundSpeed:
        """Tokens per second and row of the rounds that count for it."""
        return self._speeds.setdefault(num_rows.bit_length(), RoundSpeed())

    def elsewhere(self, num_rows: int, plain: float, hoped: float = 0.0) -> float:
        """Tokens per second that time brings if it is not spent on longer proposals: as measured,
        as `hoped` until enough is, and no fewer than rounds of `plain` seconds bring.
        """
        speed = self.speed(num_rows)
        # By the row: sizes are put together, and either a forward takes as long for fewer rows, or
        # they bring as much in their time.
        measured = num_rows * speed.rate if speed.all_pulls >= ENOUGH else 0.0
        return max(measured or hoped, num_rows / plain)

    def lost(self, num_rows: int, length: int, gained: float) -> float:
        """Plain rounds that would bring as much in the time of a speculative one, beyond what that
        is expected to bring.

        Args:
            num_rows: B
            length: of the longest proposal.
            gained: tokens that are expected to be kept.
        """
        size = self.times.compared(num_rows)
        [seconds] = self.times.speculative(size, [length])
        return max(0.0, seconds / self.times.plain(size) - 1 - gained / num_rows)

    def end(
        self,
        rows: Rows,
        length: int,
        drafting: float | None = 0.0,
        *,
        is_usual: bool = True,
    ) -> list[list[int]]:
        """The rows hold what became of the round: their new tokens.

        Args:
            rows: as they were at its begin.
            length: of the longest proposal.
            drafting: as in RoundTimes.note.
            is_usual: it counts for the speed; one with a proposal that does not is a probe.
        """
        seconds, gains = self.stop(rows)
        count = len(rows)
        if length and not is_usual and self.times.knows_plain(count):
            # What a draft had to read before is in it.
            self.probes.lost = seconds / self.times.plain(count) - sum(map(len, gains)) / count
        self.times.note(count, length, seconds, drafting)
        if is_usual:
            speed = self.speed(count)
            speed.forget(SPEED_DECAY)
            speed.note(sum(map(len, gains)) / count, seconds)
        return gains
