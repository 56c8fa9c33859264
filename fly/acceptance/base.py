"""Base classes of acceptance rules (`Rule`, `LooseRule`).  A rule is its settings and a pure
function from scores to a decision per position.  It touches no cache, row or random number, so the
same rule serves any engine that has logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from fly.acceptance.decision import REFUSALS, Decision, Reason
from fly.settings import STRICT, OfficialKeys, Temperatures

if TYPE_CHECKING:
    from torch import Tensor

    from fly.acceptance.scores import Scores

__all__ = ["REFUSALS", "Decision", "LooseRule", "Reason", "Rule", "Spelling"]


class Rule(BaseModel):
    """An acceptance rule; its fields are its settings."""

    model_config = STRICT
    temperatures: ClassVar[Temperatures] = "any"  # where the rule has a meaning
    needs_draft_probs: ClassVar[bool] = False  # reads Scores.draft_probs, at every temperature
    needs_law: ClassVar[bool] = False  # reads Scores.law where rows are sampled; trees have none

    is_official: ClassVar[bool] = False  # one of the reference implementation's, with its counters

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """What `acceptance_settings` may hold: by default the rule's own fields."""
        return cls

    @classmethod
    def resolved(cls, given: Mapping[str, object], official: OfficialKeys) -> Rule:
        """The rule that `acceptance_settings` and the official top-level keys mean."""
        return cls.model_validate(given)

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide what is kept, fit for JSON."""
        return self.model_dump(mode="json")

    @property
    def is_lossless(self) -> bool:
        """Whether the text stays the target's own (sampled: its distribution)."""
        return False

    @property
    def required_followers(self) -> int:
        """Proposed tokens, its own included, that decide whether a position is loosened; 0 if none
        ever is.
        """
        return 0 if self.is_lossless else 1

    def accept(self, scores: Scores) -> Decision:
        """Decide every position [B, K] on its own; the engine takes the prefix."""
        raise NotImplementedError


class Spelling(Rule):
    """Another name and other settings of a rule, to which it resolves."""

    @classmethod
    def resolved(cls, given: Mapping[str, object], official: OfficialKeys) -> Rule:
        """The rule that is meant."""
        return cls.model_validate(given).meant()

    def meant(self) -> Rule:
        """The rule, with settings that decide alike."""
        raise NotImplementedError


class LooseRule(Rule):
    """A rule that keeps a native mismatch where a condition on it holds (`loosens`)."""

    def loosens(self, scores: Scores) -> Tensor:
        """Where a mismatch may be kept.  [B, K] bool; its value at matches and behind the first
        refusal is not used, and there what `scores` reduce of the vocabulary may mean nothing.
        """
        raise NotImplementedError

    def gate(self, scores: Scores) -> Tensor:
        """Where a mismatch may be kept that the target can emit at all.  [B, K] bool."""
        return self.loosens(scores) & scores.draft_possible

    def accept(self, scores: Scores) -> Decision:
        """Native matches, and mismatches that may be kept and that the target can emit at all; none
        where the settings loosen nothing, whatever ties and rounding give.
        """
        if self.is_lossless:
            return scores.strict()
        return scores.loosened(gate=self.gate)
