"""Numbers as the page prints them; a missing one is a dash."""

from __future__ import annotations

import math

from fly.stats.records import Interval

UNKNOWN = "\N{EN DASH}"
INFINITE = "\N{INFINITY}"
MINUS = "\N{MINUS SIGN}"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits, thousands apart."""
    if value is not None and math.isinf(value):
        return INFINITE if value > 0 else f"{MINUS}{INFINITE}"
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent."""
    return UNKNOWN if value is None else f"{100 * value:,.{digits}f}\u00a0%"


def times(value: float | None) -> str:
    """A ratio of speeds."""
    return UNKNOWN if value is None else f"{value:,.2f}\N{MULTIPLICATION SIGN}"


def spread(interval: Interval | None, scale: float = 1, digits: int = 2) -> str:
    """The ends of an interval; empty where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{scale * interval.low:,.{digits}f} to {scale * interval.high:,.{digits}f}"


def points(interval: Interval | None, point: float) -> str:
    """A difference in points of the score, with its sign."""
    if interval is None or interval.estimate is None:
        return UNKNOWN
    return f"{interval.estimate / point:+,.1f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """Three digits, and never 0."""
    if value is None:
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def size(num_bytes: int | None) -> str:
    """A memory size in binary units."""
    if num_bytes is None:
        return UNKNOWN
    value, unit = float(num_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:,.0f} {_UNITS[unit]}" if unit == 0 else f"{value:,.1f} {_UNITS[unit]}"


def changes(gained: int | None, lost: int | None) -> str:
    """Items scored higher and lower; a dash where none are scored by themselves."""
    if gained is None or lost is None:
        return UNKNOWN
    return f"+{gained:,} / {MINUS}{lost:,}"
