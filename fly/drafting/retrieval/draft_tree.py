"""A tree of proposed tokens from several sources, each token once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from fly.drafting.base import Proposal

# By what the probability is known that a token is kept: its source's word for it, and how many
# others stand beside it, in powers of two.
Kind: TypeAlias = tuple[Hashable, int]


class DraftTree:
    """Tokens after a row's last committed one, parents before their children."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []  # places, -1 for the last committed token
        self.kinds: list[Kind] = []
        self._places: dict[tuple[int, int], int] = {}
        self._num_children: Counter[int] = Counter()

    def __len__(self) -> int:
        """Proposed tokens."""
        return len(self.tokens)

    def find(self, parent: int, token: int) -> int | None:
        """The place of a token that follows the one at `parent`."""
        return self._places.get((parent, token))

    def add(self, parent: int, token: int, source: Hashable = None) -> tuple[int, bool]:
        """The place of `token` after the one at `parent`, and whether it is new."""
        place = self._places.setdefault((parent, token), len(self.tokens))
        is_new = place == len(self.tokens)
        if is_new:
            self.tokens.append(token)
            self.parents.append(parent)
            self.kinds.append((source, self._num_children[parent].bit_length()))
            self._num_children[parent] += 1
        return place, is_new

    def cut(self, size: int) -> None:
        """Keep the first `size` tokens.  Nothing is added any more."""
        del self.tokens[size:], self.parents[size:], self.kinds[size:]
        self._places = {key: place for key, place in self._places.items() if place < size}

    def path(self, text: Sequence[int]) -> list[int]:
        """The places of the tokens that the beginning of a text takes."""
        places: list[int] = []
        for token in text:
            found = self.find(places[-1] if places else -1, token)
            if found is None:
                break
            places.append(found)
        return places


def proposal_of(trees: Sequence[DraftTree]) -> Proposal:
    """The rows' trees, padded to the largest."""
    plain = Proposal.from_lists([tree.tokens for tree in trees])
    size = plain.ids.shape[1]
    parents = [tree.parents + [-1] * (size - len(tree)) for tree in trees]
    shaped = torch.tensor(parents, dtype=torch.int64).reshape(len(trees), size)
    return replace(plain, parents=shaped)
