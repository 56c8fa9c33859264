"""`FLyConfig`, the keys of one decoder, checked and resolved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import PrivateAttr, ValidationError

from fly.config import loading, messages
from fly.config.messages import Origin
from fly.config.resolve import resolve
from fly.config.settings import Keys
from fly.config.setup import Setup
from fly.errors import ConfigWarning


class FLyConfig(Keys):
    """Every setting of a decoder.  Frozen; unknown keys and wrong types are `ConfigError`s."""

    _setup: Setup = PrivateAttr()

    def __init__(self, where: str | Origin = "FLyConfig", /, **settings: Any) -> None:
        """Check every setting and their combination.  `where` names their origin in messages.

        Raises:
            ConfigError: an unknown key, a wrong type or value, or a combination that cannot work.

        Warns:
            FLyWarning: a combination that works but loosens nothing, leaves the gate off, or may
                turn answers into copies of the prompt.
        """
        settings.pop("$schema", None)
        origin = Origin(where) if isinstance(where, str) else where
        messages.refuse_long_numbers(settings, origin)
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise messages.config_error(error, origin, Keys.model_json_schema()) from None
        self._setup = resolve(self, origin)

    def __eq__(self, other: object) -> bool:
        """Equal settings are one configuration."""
        return isinstance(other, FLyConfig) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        """Equal settings hash alike, those of rule and drafter included."""
        return hash(json.dumps(self.model_dump(), sort_keys=True, default=repr))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object], where: str = "FLyConfig") -> FLyConfig:
        """Build from parsed settings; model folders are relative to the current directory."""
        origin, settings = loading.merge(mapping, {}, Origin(where))
        return cls(origin, **settings)

    @classmethod
    def load(
        cls,
        path: loading.PathLike | None,
        overrides: Mapping[str, object] | None = None,
        *,
        overrides_from: str = "model_args",
    ) -> FLyConfig:
        """Read a JSON file (None: the defaults) and let `overrides` win over it.

        Args:
            path: a file, or the name of a shipped configuration.
            overrides: settings; texts ("15", "true", "0.3", "none") are read as the key's type.
            overrides_from: what messages call the source of the overrides.

        Raises:
            ConfigError: the file cannot be read, or see `__init__`.
        """
        given: Mapping[str, object] = {}
        origin, folder = Origin("defaults"), None
        if path is not None:
            file = loading.resolve_config_path(path)
            given, origin, folder = loading.read_json(file), Origin(str(file)), file.parent
        origin, settings = loading.merge(given, overrides or {}, origin, overrides_from, folder)
        return cls(origin, **settings)

    @property
    def setup(self) -> Setup:
        """What the settings mean."""
        return self._setup

    def changed(self, **keys: Any) -> FLyConfig:
        """The same with other settings; what they do not do as they seem to is not warned of."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)
            return FLyConfig(**(self.to_dict() | keys))

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> FLyConfig:
        """As `changed`: pydantic's own copy would keep what the old settings meant."""
        return self.changed(**(update or {}))

    def with_fixed_length(self) -> FLyConfig:
        """The same; a length that is left open and would follow the clock is fixed."""
        is_open = self.draft_length is None and self.setup.draft_length == "adaptive"
        return self.changed(draft_length="fixed") if is_open else self

    def with_fixed_compile(self) -> FLyConfig:
        """The same; what `auto` would decide anew for every method and call, is not compiled."""
        return self.changed(compile="off") if self.compile == "auto" else self

    def to_dict(self) -> dict[str, object]:
        """Every setting as given, fit for JSON."""
        return self.model_dump()

    def fingerprint(self) -> str:
        """SHA-256 over what can change the text, resolved: two ways to write one setup agree."""
        return self.setup.fingerprint()


def json_schema() -> dict[str, Any]:
    """The schema of fly_config/*.json, with every key's meaning, unit, range and default."""
    schema = Keys.model_json_schema()
    pointer = {"type": "string", "description": "This schema, for editors; ignored."}
    schema["properties"] = {"$schema": pointer, **schema["properties"]}
    schema["title"] = "FLy configuration"
    schema["description"] = "Settings of one FLy decoder."
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
