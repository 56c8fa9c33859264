"""No rule may trade a token that belongs to a stop string for another, as none may an end token:
what would justify it lies behind the end of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fly.decoding.rows import Row
from fly.decoding.stopping import StopRules
from fly.drafting import Proposal


@dataclass(frozen=True)
class StopGuard:
    """Looks at mismatches only, with the text that each stands behind."""

    stops: StopRules

    def concerned(self, rows: Sequence[Row], proposal: Proposal, choice: Tensor) -> Tensor | None:
        """Mismatches where the proposed token or the target's own completes, begins or continues a
        stop string of the row's request.  [B, K] bool; None where there is none.  Where requests
        have stop strings, proposal and choice are waited for on the host.

        Args:
            rows: before the round.
            proposal: chains.
            choice: [B, K] the target's own tokens.
        """
        if not any(row.request.stop for row in rows) or proposal.ids.shape[1] == 0:
            return None
        table = torch.stack([proposal.ids, choice], dim=1).tolist()
        lengths = proposal.lengths.tolist()
        places = [
            self._of_row(row, drafted[:length], own)
            for row, (drafted, own), length in zip(rows, table, lengths, strict=True)
        ]
        if not any(map(any, places)):
            return None
        k = proposal.ids.shape[1]
        padded = [found + [False] * (k - len(found)) for found in places]
        return torch.tensor(padded, device=proposal.ids.device)

    def _of_row(self, row: Row, drafted: Sequence[int], own: Sequence[int]) -> list[bool]:
        """Up to the last mismatch."""
        mismatches = [place for place, token in enumerate(drafted) if token != own[place]]
        if not row.request.stop or not mismatches:
            return []
        strings = self.stops.strings(row.request)
        said = strings.follow(row)
        found = []
        for token, other in zip(drafted[: mismatches[-1] + 1], own, strict=False):
            before, said = said, strings.extend(said, token)
            is_concerned = said.is_concerned or strings.extend(before, other).is_concerned
            found.append(token != other and is_concerned)
        return found
