"""A tree's tokens as attention sees them, each with those that it follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TreeMask:
    """A tree's tokens in the order of their slots, after a text that all of them follow."""

    seen: Tensor  # [B, T, T] bool, the tokens that each one follows, and itself

    @property
    def depths(self) -> Tensor:
        """Tokens of the tree before each one, which give its position.  [B, T] int64."""
        return self.seen.sum(-1) - 1

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> TreeMask:
        """Before the first token."""
        return cls(torch.zeros(num_rows, 0, 0, dtype=torch.bool, device=device))

    def grown(self, parents: Tensor) -> TreeMask:
        """With more tokens, none of which follows another of them.

        Args:
            parents: [B, n] int64, the token that each follows, -1 for the text.
        """
        (num_rows, n), size = parents.shape, self.seen.shape[1]
        # A last line, to which -1 points, for those that follow nothing of the tree.
        known = torch.nn.functional.pad(self.seen, (0, 0, 0, 1))
        before = known.gather(1, (parents % (size + 1))[..., None].expand(-1, -1, size))
        own = torch.eye(n, dtype=torch.bool, device=parents.device).expand(num_rows, -1, -1)
        old = torch.nn.functional.pad(self.seen, (0, n))
        return TreeMask(torch.cat([old, torch.cat([before, own], dim=2)], dim=1))

    @classmethod
    def from_parents(cls, parents: Tensor) -> TreeMask:
        """Of whole trees.

        Args:
            parents: [B, T] int64 on the host, the token that each follows, -1 for the text; a token
                stands after the one that it follows.
        """
        num_rows, size = parents.shape
        seen = torch.eye(size + 1, dtype=torch.bool).repeat(num_rows, 1, 1)
        place, rows = parents % (size + 1), torch.arange(num_rows)[:, None]
        each = torch.arange(size)
        while bool((place < size).any()):
            seen[rows, each, place] = True
            above = torch.cat([parents, parents.new_full((num_rows, 1), -1)], dim=1)
            place = above.gather(1, place) % (size + 1)
        return cls(seen[:, :size, :size])
