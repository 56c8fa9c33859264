"""The number of rows decoded at once, as it is written: a whole number, or `auto`, which finds one
while decoding, or `auto:N`, which looks for it N times (fly/decoding/sizing.py)."""

from __future__ import annotations

import re

from fly.errors import ConfigError

_AUTO = re.compile(r"auto(?::([1-9][0-9]*))?")


def read_batch_size(value: object) -> int | str:
    """The number, also from text as lm-eval gives it, or "auto" or "auto:N" as it is.

    Raises:
        ConfigError: the value is neither, or below 1.
    """
    if isinstance(value, str) and _AUTO.fullmatch(value):
        return value
    number = _whole_number(value)
    if number is None:
        raise ConfigError(
            f"batch_size is {value!r}, but at least one row has to be decoded at a time",
            fix="use a whole number from 1 on, auto, which finds the fastest, or auto:N, which "
            "looks for it N times",
        )
    return number


def read_max_batch_size(value: object) -> int:
    """The bound of a search, also from text.

    Raises:
        ConfigError: it is no whole number from 1 on.
    """
    number = _whole_number(value)
    if number is None:
        raise ConfigError(
            f"max_batch_size is {value!r}, but it bounds the search for a number of rows",
            fix="use a whole number from 1 on, or leave it out",
        )
    return number


def num_searches(batch_size: int | str) -> int:
    """How often the fastest number is looked for: never for a number, once for "auto"."""
    match = _AUTO.fullmatch(batch_size) if isinstance(batch_size, str) else None
    return int(match.group(1) or 1) if match else 0


def _whole_number(value: object) -> int | None:
    text = str(value)  # of True: no number
    return int(text) if text.isdecimal() and int(text) >= 1 else None
