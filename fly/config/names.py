"""Settings that name an entry of a registry: what is registered later is allowed, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import CoreSchema, core_schema

from fly.registry import Registry


@dataclass(frozen=True)
class NameIn:
    """Marks a text as a name in a registry, for pydantic; the schema lists the names of now."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], CoreSchema]
    ) -> CoreSchema:
        """The text, then its check."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """As a list of choices."""
        return {"enum": list(self.registry), "type": "string"}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(f"no {self.registry.kind} {name!r}")
        return name
