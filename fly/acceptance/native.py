"""Native acceptance: at temperature 0 a draft token is kept when it is the target's argmax, so the
text is the target's own. Source: Leviathan et al., arXiv 2211.17192.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from fly.acceptance.protocol import rules
from fly.acceptance.scores import Scores
from fly.acceptance.verdict import Verdict
from fly.settings import NoSettings, Temperatures

if TYPE_CHECKING:
    from fly.config import FLyConfig


@rules.register("native")
@dataclass(frozen=True)
class NativeRule:
    """Keep matches only.  Lossless."""

    temperatures: ClassVar[Temperatures] = "any"
    needs_draft_probs: ClassVar[bool] = False
    needs_law: ClassVar[bool] = False

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """Nothing to set."""
        return NoSettings

    @property
    def is_lossless(self) -> bool:
        """Always."""
        return True

    @classmethod
    def from_config(cls, config: FLyConfig) -> NativeRule:
        """Nothing to set."""
        return cls()

    @property
    def lookahead(self) -> int:
        """No mismatch is ever kept."""
        return 0

    def accept(self, scores: Scores) -> Verdict:
        """Every native match, and nothing else."""
        return Verdict.strict(scores)
