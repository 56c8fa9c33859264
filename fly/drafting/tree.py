"""Tree drafting, with several continuations where the draft is unsure.  Source: the released FLy
code (AMD-AGI/FLy, 6667ae8), whose keys these are.  Differs: the draft reads each token of the tree
once, at a position by depth, and keeps its cache (docs/drafters.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fly.drafting.base import (
    Choose,
    DrafterContext,
    Proposal,
    Rows,
    TreeModel,
    greedy,
)
from fly.drafting.draft_cache import CachedDrafter, DraftReader, within_context
from fly.drafting.draft_steps import last_logits
from fly.drafting.settings import DrafterSpec, ResolvedTree, TreeSettings
from fly.drafting.tree_mask import TreeMask
from fly.drafting.uploads import is_awaited


@dataclass(frozen=True)
class TreeShape:
    """Bounds of a tree's size."""

    depth: int  # levels
    branch_n: int  # followers tried of every token
    level_n: int  # tokens kept of every level
    total_n: int  # tokens kept in all


@dataclass(frozen=True, eq=False)
class Growth:
    """Trees while they grow, T tokens a row in the order of their levels, the likelier ones of a
    level first.
    """

    tokens: Tensor  # [B, T] int64
    parents: Tensor  # [B, T] int64, as in Proposal
    scores: Tensor  # [B, T] log probability of the branch; -inf where there is no token
    mask: TreeMask

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> Growth:
        """Before the first level."""
        nothing = torch.empty(num_rows, 0, dtype=torch.int64, device=device)
        return cls(nothing, nothing, nothing.float(), TreeMask.empty(num_rows, device))

    @property
    def size(self) -> int:
        """T."""
        return self.tokens.shape[1]

    def grown(self, logits: Tensor, shape: TreeShape, is_open: Tensor) -> Growth:
        """With the next level.

        Args:
            logits: [B, n, V] after the last n tokens, or after the text where there are none.
            shape: bounds the level.
            is_open: [B] bool, the rows whose trees may have it.
        """
        num_rows, n, vocab_size = logits.shape
        branch_n = min(shape.branch_n, vocab_size)
        likeliest = logits.float().log_softmax(-1).topk(branch_n)  # [B, n, branch_n]
        before = self.scores[:, -n:] if self.size else logits.new_zeros(num_rows, 1).float()
        scores = (before[..., None] + likeliest.values).flatten(1)
        scores = scores.masked_fill(~is_open[:, None], -torch.inf)
        best = scores.sort(descending=True, stable=True)
        kept = best.indices[:, : shape.level_n]
        above = kept // branch_n + self.size - n
        parents = above if self.size else torch.full_like(kept, -1)
        return Growth(
            torch.cat([self.tokens, likeliest.indices.flatten(1).gather(1, kept)], 1),
            torch.cat([self.parents, parents], 1),
            torch.cat([self.scores, best.values[:, : shape.level_n]], 1),
            self.mask.grown(parents),
        )

    def can_gain(self, width: int, total_n: int) -> bool:
        """Whether a token after the last `width` could be among the best `total_n`: it is never
        likelier than the one that it follows, and of equals the earlier stays.
        """
        if self.size < total_n:
            return bool((self.scores[:, -width:] > -torch.inf).any())
        least = self.scores.topk(total_n).values[:, -1]
        return bool((self.scores[:, -width:].amax(1) > least).any())

    def best(self, total_n: int, draft_forwards: int) -> Proposal:
        """The likeliest tokens, in the order that they have.  Scores never rise along a branch, and
        of equals the earlier comes first: whatever a kept token follows is kept too.
        """
        ranked = self.scores.sort(descending=True, stable=True)
        places, scores = ranked.indices[:, :total_n], ranked.values[:, :total_n]
        is_kept = scores > -torch.inf
        lengths = is_kept.sum(1)
        none = self.size  # a place after all others
        kept = torch.where(is_kept, places, none).sort(dim=1).values
        renamed = torch.full_like(self.tokens, -1)
        renamed = torch.cat([renamed, renamed[:, :1]], dim=1)
        steps = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        renamed = renamed.scatter(1, kept, steps)
        renamed[:, none] = -1
        held = kept.clamp_max(none - 1)
        parents = renamed.gather(1, self.parents.gather(1, held) % (none + 1))
        return Proposal(self.tokens.gather(1, held), lengths, draft_forwards, parents=parents)


class TreeDrafter(CachedDrafter):
    """The draft model's likeliest continuations, as a tree.

    Every token kept proposes its `branch_n` likeliest followers; by the product of the draft's
    probabilities the best tokens of every level are kept, and in the end the best of all.
    """

    own_settings = TreeSettings

    model: TreeModel

    def __init__(
        self, model: TreeModel, shape: TreeShape, reader: DraftReader | None = None
    ) -> None:
        """Propose trees of `shape`; the others are CachedDrafter's."""
        super().__init__(model, reader)
        self.shape = shape

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> TreeDrafter:
        sizes = spec.settings
        assert isinstance(parts.model, TreeModel)
        assert isinstance(sizes, ResolvedTree)
        shape = TreeShape(spec.k, sizes.branch_n, sizes.level_n, sizes.total_n)
        return cls(parts.model, shape, DraftReader.of(parts))

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Grow all rows' trees level by level; the draft reads every level's tokens in one forward.
        Nothing is drawn: the likeliest tokens are offered at any temperature.
        """
        depths = within_context(self.model, rows, limits, self.shape.depth)
        device = self.model.device
        if not any(depths):
            return Proposal.from_lists([[] for _ in rows])
        opening = self.reader.open(rows, depths)
        # What is kept does not lie where it was drafted.
        self.reader.forget_drafted()
        logits = last_logits(self.model.extend(opening.ids, opening.starts), opening.counts)
        roots = opening.starts.plus(opening.counts)
        trees, total_n = Growth.empty(len(rows), device), self.shape.total_n
        for level in range(1, max(depths) + 1):
            before = trees.size
            trees = trees.grown(logits, self.shape, opening.limits >= level)
            width = trees.size - before
            if level == max(depths) or not (is_awaited(device) or trees.can_gain(width, total_n)):
                break
            begin = roots.plus([before] * len(rows))
            logits = self.model.extend_tree(trees.tokens[:, before:], begin, trees.mask)
        return trees.best(total_n, level)
