"""Drafters: who proposes the next tokens.  A drafter is one file and one decorator."""

from fly.drafting.protocol import Choose, Drafter, DraftModel, End, Parts, Proposal, drafters

__all__ = ["Choose", "DraftModel", "Drafter", "End", "Parts", "Proposal", "drafters"]
