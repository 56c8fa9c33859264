"""Followers of each token, from the target's logits when it came last.  It is the logits half of
RACER (arXiv 2604.14885, section 3.1 and algorithm 1; code hkr04/RACER).  Differs: the prompt is
left out, since its logits are not kept; tokens not met for long are forgotten, where the code keeps
all of the vocabulary."""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence

from fly.drafting.retrieval.draft_tree import DraftTree


class CopyLogits:
    """Per token the ids that were likeliest after its latest occurrence, best first."""

    def __init__(self, max_tokens: int) -> None:
        """Nothing was met yet; of more than `max_tokens` tokens those met last are kept."""
        self.max_tokens = max_tokens
        self._likeliest: OrderedDict[int, Sequence[int]] = OrderedDict()  # met last at the end

    def __len__(self) -> int:
        """Tokens that are known."""
        return len(self._likeliest)

    def note(self, token: int, likeliest: Sequence[int]) -> None:
        """The target met `token` and found these likeliest to follow."""
        self._likeliest[token] = array("i", likeliest)
        self._likeliest.move_to_end(token)
        if len(self._likeliest) > self.max_tokens:
            self._likeliest.popitem(last=False)

    def __getitem__(self, token: int) -> Sequence[int]:
        """What was likeliest after a token; empty where it was not met."""
        return self._likeliest.get(token, ())

    def grow(self, tree: DraftTree, last: int, breadth: int, budget: int, max_depth: int) -> None:
        """Add up to `budget` tokens to a tree, breadth first from `last`, the last committed token;
        what another source offered already costs nothing.

        Args:
            tree: of the proposal.
            last: token id.
            breadth: children of the root.  Of a node with b children the first has b itself after
                the root, half of b elsewhere, and each next one half of the one before, 1 at least.
            budget: tokens, new ones.
            max_depth: longest branch, tokens.
        """
        queue = deque([(-1, last, breadth, 1)])  # place, token, children, depth of those
        while queue and budget > 0:
            place, token, num_children, depth = queue.popleft()
            if depth > max_depth:
                return
            share = num_children if place == -1 else num_children // 2
            for child in self[token][:num_children]:
                if budget == 0:
                    return
                found, is_new = tree.add(place, child, ("logits", place == -1))
                budget -= is_new
                queue.append((found, child, max(1, share), depth + 1))
                share //= 2
