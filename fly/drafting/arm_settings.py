"""One arm of a bandit: a drafter, the most tokens that it offers, and its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field

from fly.drafting.spec import Describe, DrafterSpec
from fly.errors import ConfigError
from fly.settings import STRICT, OfficialKeys

BANDIT, NONE = "bandit", "none"


class ArmSettings(BaseModel):
    """One arm."""

    model_config = STRICT
    drafter: str = Field(description="Its name; none decodes plainly.", min_length=1)
    k: int = Field(default=15, ge=1, le=128, description="Tokens offered in a round.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="As drafter_settings of that drafter."
    )

    @property
    def name(self) -> str:
        """Unlike that of any other arm."""
        own = "".join(f",{key}={value}" for key, value in sorted(self.settings.items()))
        return self.drafter if self.drafter == NONE else f"{self.drafter}:k={self.k}{own}"

    @property
    def source(self) -> tuple[str, str]:
        """Arms that differ in length alone are of one drafter."""
        return self.drafter, repr(sorted(self.settings.items()))


def spec_of(arm: ArmSettings, official: OfficialKeys, describe: Describe) -> DrafterSpec:
    """The drafter of one arm.

    Raises:
        ConfigError: its drafter is unknown, has no such settings, or is a bandit itself.
    """
    if arm.drafter == BANDIT:
        raise ConfigError("drafter_settings: an arm of a bandit is a bandit", fix="name its arms")
    if arm.drafter == NONE and arm.settings:
        raise ConfigError(
            "drafter_settings: arm 'none' has settings, but drafts nothing", fix="drop them"
        )
    return describe(arm.drafter, arm.settings, replace(official, spd_k=arm.k))
