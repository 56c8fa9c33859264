"""A tree of proposed tokens that several sources add to; what two of them offer stands once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fly.drafting.protocol import Proposal


class DraftTree:
    """Tokens behind a row's last committed one, parents before their children."""

    def __init__(self) -> None:
        """Nothing is proposed yet."""
        self.tokens: list[int] = []
        self.parents: list[int] = []  # places, -1 for the last committed token
        self._places: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        """Proposed tokens."""
        return len(self.tokens)

    def find(self, parent: int, token: int) -> int | None:
        """The place of a token that follows the one at `parent`."""
        return self._places.get((parent, token))

    def add(self, parent: int, token: int) -> tuple[int, bool]:
        """The place of `token` behind the one at `parent`, and whether it is new."""
        place = self._places.setdefault((parent, token), len(self.tokens))
        is_new = place == len(self.tokens)
        if is_new:
            self.tokens.append(token)
            self.parents.append(parent)
        return place, is_new


def proposal_of(trees: Sequence[DraftTree], device: torch.device) -> Proposal:
    """The rows' trees, padded to the largest."""
    plain = Proposal.from_lists([tree.tokens for tree in trees], device)
    size = plain.ids.shape[1]
    parents = [tree.parents + [-1] * (size - len(tree)) for tree in trees]
    shaped = torch.tensor(parents, dtype=torch.int64, device=device).reshape(len(trees), size)
    return Proposal(plain.ids, plain.lengths, parents=shaped)
