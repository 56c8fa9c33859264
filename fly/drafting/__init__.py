"""Drafters: who proposes the next tokens.  A drafter is one file and one decorator."""

from fly.drafting.protocol import Choose, Drafter, DraftModel, End, Proposal, drafters

__all__ = ["Choose", "DraftModel", "Drafter", "End", "Proposal", "drafters"]
