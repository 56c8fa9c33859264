"""What a rule is: a pure function from scores to a verdict per position.  It touches no cache, row
or random number, so the same rule serves any engine that can hand it logits.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel

from fly.registry import rules as rules
from fly.settings import Temperatures

if TYPE_CHECKING:
    from fly.acceptance.scores import Scores
    from fly.acceptance.verdict import Verdict
    from fly.config import FLyConfig


class Reason(IntEnum):
    """Why a position was kept or refused.  Refusals stand in the order in which they are looked
    for.
    """

    OUTSIDE = 0  # behind the row's proposal
    MATCH = 1  # native acceptance
    LOOSE = 2  # a mismatch that was kept
    STRICT = 3  # the rule never keeps a mismatch
    PROTECTED = 4  # the draft token or the target's choice is a special or an end token or belongs
    # to a stop string, or nothing may be loosened at this place
    GATE = 5  # the rule's condition does not hold; FLy's: the target was sure
    BOUNDARY = 6  # too few positions follow in the proposal
    WINDOW = 7  # one of the inspected followers mismatches


REFUSALS = (Reason.STRICT, Reason.PROTECTED, Reason.GATE, Reason.BOUNDARY, Reason.WINDOW)


class Rule(Protocol):
    """An acceptance rule."""

    @property
    def temperatures(self) -> Temperatures:
        """Where the rule has a meaning."""
        ...

    @property
    def needs_draft_probs(self) -> bool:
        """Whether it reads Scores.draft_probs, at every temperature."""
        ...

    @property
    def needs_law(self) -> bool:
        """Whether it reads Scores.law where rows are sampled.  Trees have none."""
        return False

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """What `acceptance_settings` may hold."""
        ...

    @property
    def is_lossless(self) -> bool:
        """Whether the text stays the target's own (sampled: its distribution)."""
        ...

    @classmethod
    def from_config(cls, config: FLyConfig) -> Rule:
        """Build the rule from the settings that concern it."""
        ...

    @property
    def lookahead(self) -> int:
        """Proposed tokens, its own included, that decide whether a position is loosened; 0 if none
        ever is.
        """
        ...

    def accept(self, scores: Scores) -> Verdict:
        """Decide every position [B, K] on its own; the engine takes the prefix."""
        ...
