"""Where a setting was written: messages name the file or flag that the user has to mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origin:
    """A source for all settings, with another one for some of them."""

    default: str
    by_key: Mapping[str, str] = field(default_factory=dict)

    def of(self, *keys: str) -> str:
        """The sources of these keys, each named once."""
        return " and ".join(dict.fromkeys(self.by_key.get(key, self.default) for key in keys))
