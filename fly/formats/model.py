"""Base of all formats, frozen records that refuse unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Format(BaseModel):
    """A frozen record; NaN and infinities are no JSON and are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )
