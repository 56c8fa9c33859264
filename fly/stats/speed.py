"""Speed ratio of two methods, from blocks of requests that both decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from fly.stats.bootstrap import Floats, bootstrap, redraw
from fly.stats.records import Interval

TAIL = 0.025  # of a two-sided 95 % interval
BLOCKS_MIN = 5  # fewer have no interval


def speed_ratio(
    tokens_a: Sequence[float],
    seconds_a: Sequence[float],
    tokens_b: Sequence[float],
    seconds_b: Sequence[float],
) -> Interval:
    """Tokens per second of `a` by those of `b`, over blocks that both decoded, in the same order.

    All tokens by all seconds, so that long blocks count as what they cost.  With few blocks the
    bootstrap of the logarithm is too narrow (89 to 93 % with 5), so the interval is the wider of
    it and Student's, of the jackknife.

    Raises:
        ValueError: the four are not equally long, or a block took no time or less.
    """
    columns = [np.asarray(part, dtype=float) for part in (tokens_a, seconds_a, tokens_b, seconds_b)]
    if len({part.shape for part in columns}) != 1 or columns[0].ndim != 1:
        raise ValueError(f"blocks must be paired, got {[part.size for part in columns]}")
    if any(np.any(~np.isfinite(part)) or np.any(part < 0) for part in columns):
        raise ValueError("tokens and seconds are finite and not negative")
    blocks = np.stack(columns, axis=1)
    if blocks.size == 0 or np.any(blocks.sum(axis=0) <= 0):
        return Interval(estimate=None, low=None, high=None, method="nothing was decoded or timed")
    return _interval(blocks)


def _interval(blocks: Floats) -> Interval:
    count = len(blocks)
    estimate = float(np.exp(_log_ratio(blocks.sum(axis=0))))
    if count < BLOCKS_MIN:
        method = f"{count} timed block(s): an interval needs {BLOCKS_MIN}"
        return Interval(estimate=estimate, low=None, high=None, method=method)
    found = bootstrap(blocks, redraw(blocks), _log_ratio)
    reach = float(stats.t.isf(TAIL, count - 1)) * found.error
    low = min(found.bound(TAIL), found.estimate - reach)
    high = max(found.bound(1 - TAIL), found.estimate + reach)
    return Interval(
        estimate=estimate,
        low=float(np.exp(low)),
        high=float(np.exp(high)) if np.isfinite(high) else None,
        method=f"wider of BCa bootstrap and Student's jackknife over {count} blocks",
    )


def _log_ratio(sums: Floats) -> Floats:
    tokens_a, seconds_a, tokens_b, seconds_b = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.log(tokens_a / seconds_a) - np.log(tokens_b / seconds_b)
    return ratio
