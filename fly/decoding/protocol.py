"""What the engine asks of a model, however it keeps its rows: in slots (model.py), in a cache of
each row's own (rowwise.py), or as texts only (uncached.py).  And of who knows where nothing may be
loosened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from fly.decoding.rows import Row
from fly.drafting.protocol import DraftModel, Proposal, TreeModel


@runtime_checkable
class CausalModel(DraftModel, Protocol):
    """A language model behind the engine's interface; target and draft alike."""

    vocab_size: int  # ids that it knows

    def clear(self) -> None:
        """Forget all rows."""
        ...


@runtime_checkable
class TreeVerifier(CausalModel, TreeModel, Protocol):
    """One that can verify trees."""

    def keep_slots(self, sources: Tensor, destinations: Tensor) -> None:
        """What lies in row b's slots sources[b] goes to its slots destinations[b]; both [B, n]."""
        ...


class Guard(Protocol):
    """Knows the places where nothing may be loosened."""

    @property
    def closing_tokens(self) -> Tensor | None:
        """Tokens that are traded nowhere, besides.  [V] bool."""
        ...

    def locked(self, rows: Sequence[Row], proposal: Proposal) -> Tensor | None:
        """Those places of the proposal.  [B, K] bool; None: there are none."""
        ...
