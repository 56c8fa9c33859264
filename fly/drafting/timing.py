"""What rounds take, learned while decoding: plain ones, and speculative ones by the length of their
longest proposal.  Batches of like size are put together.
"""

from __future__ import annotations

from dataclasses import dataclass

DECAY = 0.98  # of what was measured before, per round measured
WARM_UP = 2  # first rounds of a kind: caches grow, kernels are chosen
OUTLIER = 4.0  # times the mean; a round interrupted by something else is left out


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
        if self.weight > 3 and seconds > OUTLIER * self.at(length) and self.outliers < 3:
            self.outliers += 1
            return
        self.outliers = 0
        parts = {"weight": 1.0, "x": length, "y": seconds, "xx": length**2, "xy": length * seconds}
        for name, value in parts.items():
            setattr(self, name, DECAY * getattr(self, name) + value)

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

    def knows_plain(self, num_rows: int) -> bool:
        """Whether a plain round of about so many rows was measured."""
        line = self._plain.get(num_rows.bit_length())
        return line is not None and line.is_known

    def plain(self, num_rows: int) -> float:
        """Seconds of a plain round."""
        return self._plain[num_rows.bit_length()].at(0)

    def speculative(self, num_rows: int, length: int) -> float:
        """Seconds of a speculative round; while nothing is known as optimistic as can be, so that
        it is tried: no more than a plain one.
        """
        line = self._nearest(num_rows)
        return self.plain(num_rows) if line is None else line.at(length)

    def step(self, num_rows: int) -> float:
        """Seconds of one further token in all proposals."""
        line = self._nearest(num_rows)
        return 0.0 if line is None else line.slope

    def _nearest(self, num_rows: int) -> Line | None:
        """Of the same size of batch, or None."""
        line = self._speculative.get(num_rows.bit_length())
        return line if line is not None and line.is_known else None
