"""Drafters: who proposes the next tokens.  A drafter is one file and one decorator."""

from fly.drafting.lineage import TreeMask
from fly.drafting.protocol import (
    Choose,
    Drafter,
    DraftModel,
    End,
    Parts,
    Proposal,
    TreeModel,
    drafters,
)

__all__ = [
    "Choose",
    "DraftModel",
    "Drafter",
    "End",
    "Parts",
    "Proposal",
    "TreeMask",
    "TreeModel",
    "drafters",
]
