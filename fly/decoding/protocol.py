"""What the engine asks of a model, however it keeps its rows: in slots (model.py), in a cache of
each row's own (rowwise.py), or as texts only (uncached.py).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from fly.drafting.protocol import DraftModel


@runtime_checkable
class CausalModel(DraftModel, Protocol):
    """A language model behind the engine's interface; target and draft alike."""

    @property
    def vocab_size(self) -> int:
        """Ids that it knows."""
        ...

    def clear(self) -> None:
        """Forget all rows."""
        ...
