"""Batch sizes as users write them.  A number; `auto`, which finds one while decoding; or `auto:N`,
which looks for it N times (fly/engine/admission.py)."""

from __future__ import annotations

import re
from typing import TypeGuard

from fly.errors import ConfigError, quoted

_AUTO = re.compile(r"auto(?::([1-9][0-9]*))?")


def check_batch_size(value: object) -> int | str:
    """The value, which is a number, "auto" or "auto:N".

    Raises:
        ConfigError: it is none of these, or below 1.
    """
    if isinstance(value, str) and _AUTO.fullmatch(value):
        return value
    if _is_count(value):
        return value
    raise ConfigError(
        f"batch_size is {quoted(value)}, but at least one row has to be decoded at a time",
        fix="use a whole number from 1 on, auto, which finds the fastest, or auto:N, which "
        "looks for it N times",
    )


def read_batch_size(value: object) -> int | str:
    """The same for lm-eval's arguments, where a number may be text.

    Raises:
        ConfigError: as above.
    """
    return check_batch_size(_from_text(value))


def read_max_batch_size(value: object) -> int:
    """The bound of a search; the number may be text.

    Raises:
        ConfigError: it is no whole number from 1 on.
    """
    number = _from_text(value)
    if _is_count(number):
        return number
    raise ConfigError(
        f"max_batch_size is {quoted(value)}, but it bounds the search for a number of rows",
        fix="use a whole number from 1 on, or leave it out",
    )


def num_searches(batch_size: int | str) -> int:
    """How often the fastest number is looked for: never for a number, once for "auto"."""
    match = _AUTO.fullmatch(batch_size) if isinstance(batch_size, str) else None
    return int(match.group(1) or 1) if match else 0


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _from_text(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value
