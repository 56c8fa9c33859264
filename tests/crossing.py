"""Parameters that cross others.  Where two of them do not interact, the fast tests take the first
values of one, and the slow tests the rest."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], num_fast: int = 1) -> list[Any]:
    """For `pytest.mark.parametrize`: tuples are the values of several arguments."""
    found = list(values)
    rest = (each if isinstance(each, tuple) else (each,) for each in found[num_fast:])
    return found[:num_fast] + [pytest.param(*each, marks=pytest.mark.slow) for each in rest]
