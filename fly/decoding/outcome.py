"""What a round decided for one row, on the host."""

from __future__ import annotations

from dataclasses import dataclass

from fly.acceptance import Reason


@dataclass(frozen=True)
class Outcome:
    """One row's share of a round."""

    proposal: list[int]  # ids
    num_kept: int  # of the proposal
    reasons: list[int]  # an acceptance.Reason for every proposed token
    own: int  # the target's token behind those kept: correction, bonus or plain step

    @property
    def num_proposed(self) -> int:
        """Tokens proposed."""
        return len(self.proposal)

    @property
    def num_loose(self) -> int:
        """Kept tokens that the rule loosened."""
        return self.reasons[: self.num_kept].count(Reason.LOOSE)

    @property
    def ids(self) -> list[int]:
        """The tokens kept and the target's own behind them."""
        return [*self.proposal[: self.num_kept], self.own]

    @property
    def origins(self) -> str:
        """A character for each of `ids`, as in Result.origins."""
        kept = self.reasons[: self.num_kept]
        own = "p" if self.num_proposed == 0 else "b" if self.num_kept == self.num_proposed else "c"
        return "".join(["l" if reason == Reason.LOOSE else "m" for reason in kept]) + own

    @property
    def mismatches(self) -> list[int]:
        """Places of the mismatches that took effect: those kept, and the first refusal.  What lies
        behind is judged, but nothing hangs on it.
        """
        effective = enumerate(self.reasons[: self.num_kept + 1])
        return [place for place, reason in effective if reason != Reason.MATCH]
