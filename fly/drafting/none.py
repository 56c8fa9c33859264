"""No drafting: every round is a plain step of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fly.drafting.protocol import Choose, Drafter, Parts, Proposal, Rows, drafters, greedy

if TYPE_CHECKING:
    from fly.config import FLyConfig


@drafters.register("none")
class NoDrafter(Drafter):
    """Empty proposals."""

    def __init__(self, device: torch.device) -> None:
        """Proposals are made on `device`."""
        self._device = device

    @classmethod
    def from_config(cls, config: FLyConfig, parts: Parts) -> NoDrafter:
        """Nothing to set."""
        return cls(parts.device)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Offer nothing."""
        return Proposal.from_lists([[] for _ in rows], self._device)
