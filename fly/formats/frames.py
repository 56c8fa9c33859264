"""Results as tables of pandas: flat columns, an interval as its estimate, `_low` and `_high`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fly.errors import MissingExtraError
from fly.stats.records import Interval

if TYPE_CHECKING:
    import pandas as pd


def table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of these rows.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(
            "a table needs pandas, which is not installed",
            fix="pip install 'fly-decoding[stats]', in a clone: pip install -e '.[stats]'",
        ) from error
    frame: pd.DataFrame = pd.DataFrame(rows)  # Any where pandas has no stubs
    return frame


def spread(name: str, interval: Interval | None) -> Iterator[tuple[str, float | None]]:
    """An interval's three columns."""
    yield name, interval.estimate if interval else None
    yield f"{name}_low", interval.low if interval else None
    yield f"{name}_high", interval.high if interval else None
