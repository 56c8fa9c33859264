"""What all formats share: frozen records that tolerate nothing unknown, and intervals."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Format(BaseModel):
    """A frozen record; NaN and infinities are no JSON and are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Interval(Format):
    """An estimate with its two-sided 95 % interval; what cannot be told is None.

    `method` names how the interval was made, or says why there is none.
    """

    estimate: float | None
    low: float | None
    high: float | None
    method: str
