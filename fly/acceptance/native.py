"""Native acceptance, which leaves the target's text unchanged.  At temperature 0 a draft token is
kept when it is the target's argmax; sampled text keeps its distribution.  Source: Leviathan et al.,
arXiv 2211.17192."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fly.acceptance.base import Decision, Rule

if TYPE_CHECKING:
    from fly.acceptance.scores import Scores


class NativeRule(Rule):
    """Keep matches only.  Lossless; nothing to set."""

    is_official: ClassVar[bool] = True

    @property
    def is_lossless(self) -> bool:
        """Always."""
        return True

    def accept(self, scores: Scores) -> Decision:
        """Every native match, and nothing else."""
        return scores.strict()
