"""What rounds take, learned while decoding: plain ones, and speculative ones by the length of their
longest proposal.  Batches of like size are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DECAY = 0.99  # of what was measured before, per round measured
WARM_UP = 1  # first rounds of a kind: caches grow, kernels are chosen
OUTLIER = 3.0  # times what was expected: something else had the machine
MOST_OUTLIERS = 3  # in a row; then it is no outlier


@dataclass
class Line:
    """Seconds over length, discounted.  The slope is that of the differences between one round and
    the next, so that a machine whose speed drifts while the lengths do does not look like one
    whose further tokens are dearer.
    """

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0  # of differences
    xy: float = 0.0
    last: tuple[int, float] | None = None
    skipped: int = 0
    outliers: int = 0

    def note(self, length: int, seconds: float) -> None:
        """One round."""
        if self.skipped < WARM_UP:
            self.skipped += 1
            return
        is_outlier = self.weight > 3 and seconds > OUTLIER * self.at([length])[0]
        if is_outlier and self.outliers < MOST_OUTLIERS:
            self.outliers += 1
            return
        self.outliers = 0
        self.weight = DECAY * self.weight + 1
        self.x = DECAY * self.x + length
        self.y = DECAY * self.y + seconds
        step, change = (length - self.last[0], seconds - self.last[1]) if self.last else (0, 0.0)
        self.xx = DECAY * self.xx + step * step
        self.xy = DECAY * self.xy + step * change
        self.last = length, seconds

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self.weight > 0

    @property
    def slope(self) -> float:
        """Seconds per further token.  With lengths all alike, the mean round's share of one of
        length + 3 equal parts.
        """
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        guess = mean_y / (mean_x + 3)
        if self.xx < 0.5 * self.weight:
            return guess
        return min(max(self.xy / self.xx, 0.1 * guess), mean_y / max(mean_x, 1.0))

    def at(self, lengths: Sequence[int]) -> list[float]:
        """Seconds of rounds of these lengths."""
        slope, mean = self.slope, self.y / self.weight
        start = mean - slope * self.x / self.weight
        return [max(start + slope * length, 0.05 * mean) for length in lengths]


class RoundTimes:
    """Seconds of plain and speculative rounds."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._plain: dict[int, Line] = {}
        self._speculative: dict[int, Line] = {}

    def note(self, num_rows: int, length: int, seconds: float) -> None:
        """A round of `num_rows` rows whose longest proposal had `length` tokens."""
        lines = self._speculative if length else self._plain
        lines.setdefault(num_rows.bit_length(), Line()).note(length, seconds)

    @property
    def knows_plain(self) -> bool:
        """Whether any plain round was measured."""
        return _nearest(self._plain, 0) is not None

    def plain(self, num_rows: int) -> float:
        """Seconds of a plain round; of a batch of another size where none of this was measured."""
        line = _nearest(self._plain, num_rows.bit_length())
        assert line is not None
        return line.at([0])[0]

    def speculative(self, num_rows: int, lengths: Sequence[int]) -> list[float]:
        """Seconds of speculative rounds of these lengths; while nothing is known as optimistic as
        can be, so that it is tried: no more than plain ones.
        """
        line = _nearest(self._speculative, num_rows.bit_length())
        return [self.plain(num_rows)] * len(lengths) if line is None else line.at(lengths)

    def step(self, num_rows: int) -> float:
        """Seconds of one further token in all proposals."""
        line = _nearest(self._speculative, num_rows.bit_length())
        return 0.0 if line is None else line.slope

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


def _nearest(lines: Mapping[int, Line], place: int) -> Line | None:
    """The line measured at the nearest size of batch."""
    known = [size for size, line in lines.items() if line.is_known]
    return lines[min(known, key=lambda size: abs(size - place))] if known else None
