"""State that a drafter keeps for each request, by the request's index."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fly.drafting.base import CommittedRow

T = TypeVar("T")


class PerRequest(dict[int, T]):
    """State by request, made when a row is first seen; `pop` gives it up."""

    def __init__(self, make: Callable[[CommittedRow], T]) -> None:
        """`make` gives a new row's state."""
        super().__init__()
        self._make = make

    def of(self, row: CommittedRow) -> T:
        """The state of a row's request."""
        if row.index not in self:
            self[row.index] = self._make(row)
        return self[row.index]
