"""What rounds take, learned while decoding: plain ones, and speculative ones by the length of their
longest proposal.  Batches of like size are put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DECAY = 0.99  # of what was measured before, per round measured
WARM_UP = 1  # first rounds of a kind: caches grow, kernels are chosen
OUTLIER = 3.0  # times what was expected: something else had the machine
MOST_OUTLIERS = 3  # in a row; then it is no outlier


@dataclass
class Line:
    """Seconds over length, by discounted least squares."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    skipped: int = 0
    outliers: int = 0

    def note(self, length: int, seconds: float) -> None:
        """One round."""
        if self.skipped < WARM_UP:
            self.skipped += 1
            return
        is_outlier = self.weight > 3 and seconds > OUTLIER * self.at(length)
        if is_outlier and self.outliers < MOST_OUTLIERS:
            self.outliers += 1
            return
        self.outliers = 0
        self.weight = DECAY * self.weight + 1
        self.x = DECAY * self.x + length
        self.y = DECAY * self.y + seconds
        self.xx = DECAY * self.xx + length * length
        self.xy = DECAY * self.xy + length * seconds

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
        variance = self.xx / self.weight - mean_x**2
        guess = mean_y / (mean_x + 3)
        if variance < 0.25:
            return guess
        found = (self.xy / self.weight - mean_x * mean_y) / variance
        return min(max(found, 0.1 * guess), mean_y / max(mean_x, 1.0))

    def at(self, length: int) -> float:
        """Seconds of a round of this length."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        return max(mean_y + self.slope * (length - mean_x), 0.05 * mean_y)


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
        return line.at(0)

    def speculative(self, num_rows: int, length: int) -> float:
        """Seconds of a speculative round; while nothing is known as optimistic as can be, so that
        it is tried: no more than a plain one.
        """
        line = _nearest(self._speculative, num_rows.bit_length())
        return self.plain(num_rows) if line is None else line.at(length)

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
