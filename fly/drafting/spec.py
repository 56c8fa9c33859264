"""A drafter as the configuration resolves it: its name, its settings, what it needs and gives.  No
torch: a configuration is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, Field, SerializeAsAny

from fly.settings import STRICT, OfficialKeys, Traits


class DrafterSpec(BaseModel):
    """One drafter, resolved: nothing of it depends on the configuration any more."""

    model_config = STRICT

    name: str
    k: int  # spd_k: tokens that it offers in one round at most
    settings: SerializeAsAny[BaseModel]  # its own, and the official keys that it reads
    traits: Traits = Field(exclude=True, repr=False)

    @property
    def spd_k(self) -> int:
        """K, by its official name."""
        return self.k

    @property
    def drafter_settings(self) -> dict[str, Any]:
        """The settings as a dictionary."""
        return self.settings.model_dump()


Describe: TypeAlias = Callable[[str, Mapping[str, Any], OfficialKeys], DrafterSpec]


class DrafterSettings(BaseModel):
    """Settings of a drafter that read official keys, or that tell its traits."""

    model_config = STRICT

    @classmethod
    def resolved(
        cls, given: Mapping[str, Any], official: OfficialKeys, describe: Describe
    ) -> DrafterSettings:
        """The settings with what the official keys add.

        Args:
            given: `drafter_settings`, checked already.
            official: the official keys.
            describe: resolves another drafter, for those that consist of several.

        Raises:
            ConfigError: settings and keys contradict each other.
        """
        return cls.model_validate(given)

    @property
    def traits(self) -> Traits:
        """What the drafter needs and gives with these settings."""
        return Traits()
