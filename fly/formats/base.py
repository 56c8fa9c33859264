"""Base of all formats, frozen records that refuse unknown keys.  Results also become pandas tables:
columns are flat, and an interval is its estimate, `_low` and `_high`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from fly.errors import MissingExtraError
from fly.stats.records import Interval, Paired

if TYPE_CHECKING:
    import pandas as pd


class Format(BaseModel):
    """A frozen record; NaN and infinities are no JSON and are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of rows.

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
    found: pd.DataFrame = pd.DataFrame(rows)  # Any where pandas has no stubs
    return found


def spread(name: str, interval: Interval | None) -> dict[str, float | None]:
    """The columns of an interval."""
    ends = ("", "estimate"), ("_low", "low"), ("_high", "high")
    return {f"{name}{end}": getattr(interval, key, None) for end, key in ends}


def paired_columns(paired: Paired | None) -> dict[str, Any]:
    """The columns of scores beside the target's."""
    counts = ("gained", "lost", "mcnemar_p")
    return {
        **spread("recovery", paired.recovery if paired else None),
        **spread("difference", paired.difference if paired else None),
        **{name: getattr(paired, name, None) for name in counts},
    }
