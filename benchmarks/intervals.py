"""Ratios of paired block measurements, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A geometric mean over blocks and its t interval."""

    estimate: float
    low: float
    high: float
    blocks: tuple[float, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def ratio_over_blocks(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two paired measurements; the interval is Student's, of the mean log ratio."""
    ratios = np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float)
    logs = np.log(ratios)
    mean, error = logs.mean(), stats.sem(logs)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * error
    low, estimate, high = (float(np.exp(mean + offset)) for offset in (-reach, 0.0, reach))
    return Ratio(estimate, low, high, tuple(ratios.tolist()))
