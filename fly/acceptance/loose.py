"""What most rules have in common: a native mismatch is kept where a condition on it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel
from torch import Tensor

from fly.acceptance.scores import Scores
from fly.acceptance.verdict import Verdict
from fly.settings import STRICT, Temperatures

if TYPE_CHECKING:
    from fly.config import FLyConfig


class LooseRule(BaseModel):
    """A rule whose fields are its settings, and which loosens where `loosens` says so."""

    model_config = STRICT
    temperatures: ClassVar[Temperatures] = "any"
    needs_draft_probs: ClassVar[bool] = False
    needs_law: ClassVar[bool] = False

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """The rule itself."""
        return cls

    @classmethod
    def from_config(cls, config: FLyConfig) -> LooseRule:
        """Read acceptance_settings."""
        return cls.model_validate(config.acceptance_settings)

    @property
    def is_lossless(self) -> bool:
        """A rule says so itself where its settings loosen nothing."""
        return False

    @property
    def lookahead(self) -> int:
        """A token is decided on by itself."""
        return 1

    def loosens(self, scores: Scores) -> Tensor:
        """Where a mismatch may be kept.  [B, K] bool; what it says of matches is not looked at."""
        raise NotImplementedError

    def accept(self, scores: Scores) -> Verdict:
        """Native matches, and mismatches that may be kept."""
        return Verdict.loosened(scores, gate=self.loosens(scores))
