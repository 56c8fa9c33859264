"""The drafter `none`, with which the target decodes plainly."""

from __future__ import annotations

from collections.abc import Sequence

from fly.drafting.base import Choose, Drafter, DrafterContext, Proposal, Rows, greedy
from fly.drafting.settings import DrafterSpec, PlainSettings


class NoDrafter(Drafter):
    """Empty proposals."""

    own_settings = PlainSettings

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> NoDrafter:
        return cls()

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Offer nothing."""
        return Proposal.from_lists([[] for _ in rows])
