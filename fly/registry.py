"""The class Registry, from names to rules and drafters.  An entry may be a "module:Class" string
that is imported on first use: the configuration can check names without importing torch."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from fly.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")
C = TypeVar("C", bound=type[object])


def did_you_mean(word: str, known: list[str]) -> str:
    """A "; did you mean 'x'?" for the nearest known word, or nothing when none is near.  Case is
    ignored."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


class Registry(Generic[T]):
    """A table of one kind of class.  `Registry[Rule]("acceptance rule", {"fly":
    "fly.acceptance.fly:FlyRule"})`."""

    def __init__(
        self,
        kind: str,
        lazy: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Name the kind for messages.

        Args:
            kind: what is registered.
            lazy: names to "module:Class".
            settings: names to "module:Class" of the settings, where those are to be known without
                importing the class itself.
        """
        self.kind = kind
        self._entries: dict[str, type[T] | str] = dict(lazy or {})
        self._lazy, self._settings = dict(lazy or {}), dict(settings or {})

    def register(self, name: str) -> Callable[[C], C]:
        """Decorate a class to enter it under `name`; the class comes back unchanged.

        Raises:
            ValueError: the name is taken by another class.
        """

        def enter(cls: C) -> C:
            present = self._entries.get(name)
            # The class behind a lazy entry registers itself while it is being imported: that is the
            # same class.
            if present is not None and present != f"{cls.__module__}:{cls.__qualname__}":
                raise ValueError(f"{self.kind} {name!r} is already registered as {present!r}")
            self._entries[name] = cast("type[T]", cls)
            return cls

        return enter

    def get(self, name: str, *, where: str = "") -> type[T]:
        """The class called `name`, imported now if its entry is lazy.  `where` (a file, a flag)
        opens the message.

        Raises:
            ConfigError: no such name; the nearest one is offered.
        """
        entry = self._entries.get(name)
        if entry is None:
            prefix = f"{where}: " if where else ""
            raise ConfigError(
                f"{prefix}unknown {self.kind} {name!r}{did_you_mean(name, self.names())}",
                fix=f"choose one of {', '.join(self.names())}",
            )
        if not isinstance(entry, str):
            return entry
        cls: type[T] = _imported(entry)
        self._entries[name] = cls
        return cls

    def settings_of(self, name: str) -> type[BaseModel]:
        """What the settings of `name` may hold.

        Raises:
            ConfigError: as `get`.
        """
        if self.is_known_by_settings(name):
            found: type[BaseModel] = _imported(self._settings[name])
            return found
        entry: Any = self.get(name)
        model: type[BaseModel] = entry.settings_model()
        return model

    def is_known_by_settings(self, name: str) -> bool:
        """Whether its settings hold all that there is to know before it is built."""
        entry: Any = self._entries.get(name)
        home = (
            entry if isinstance(entry, str | None) else f"{entry.__module__}:{entry.__qualname__}"
        )
        return name in self._settings and home == self._lazy[name]

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        """All names in the order in which they were entered; imports nothing."""
        return iter(list(self._entries))

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name."""
        return name in self._entries


def lazy_names(module: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], object]:
    """`__getattr__` of a package whose names are imported when they are first used.

    Args:
        module: the package.
        homes: modules, and the names that come from each.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[module], name, value)
        return value

    return find


def _imported(home: str) -> Any:
    """What "module:Class" names."""
    module, _, attribute = home.partition(":")
    return getattr(importlib.import_module(module), attribute)
