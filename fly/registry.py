"""Names to classes, for acceptance rules and drafters.  An entry may be a "module:Class" string,
imported when it is first asked for, so that knowing the names costs no import of torch: the
configuration checks names against such tables."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from fly.errors import ConfigError

if TYPE_CHECKING:
    from fly.drafting import Drafter

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

    def __init__(self, kind: str, lazy: Mapping[str, str] | None = None) -> None:
        """Name the kind for messages; `lazy` maps names to "module:Class"."""
        self.kind = kind
        self._entries: dict[str, type[T] | str] = dict(lazy or {})

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
        module, _, attribute = entry.partition(":")
        cls = cast("type[T]", getattr(importlib.import_module(module), attribute))
        self._entries[name] = cls
        return cls

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        """All names in the order in which they were entered; imports nothing."""
        return iter(list(self._entries))

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name."""
        return name in self._entries


drafters: Registry[Drafter] = Registry(
    "drafter",
    {
        "model": "fly.drafting.model:ModelDrafter",
        "ngram": "fly.drafting.ngram:NgramDrafter",
        "multilevel": "fly.drafting.multilevel:MultilevelDrafter",
        "none": "fly.drafting.none:NoDrafter",
        "suffix": "fly.drafting.suffix:SuffixDrafter",
        "tree": "fly.drafting.tree:TreeDrafter",
        "other_tokenizer": "fly.drafting.other_tokenizer:OtherTokenizerDrafter",
        "self": "fly.drafting.self:SelfDrafter",
        "retrieval": "fly.drafting.retrieval:RetrievalDrafter",
        "bandit": "fly.drafting.bandit:BanditDrafter",
    },
)
