"""A tree's branches as rules see them: each is a proposal of its own, from the last committed token
to a leaf.  What takes a pass over the vocabulary is computed once for every token of the tree, and
logits are copied branch by branch only for a rule that reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fly.acceptance.scores import Scores, entropy_of


@dataclass(frozen=True, eq=False)
class TreeScores:
    """The target's view of trees of N tokens; line n+1 of `logits[b]` judges what follows token
    n, and line 0 what follows the last committed one.
    """

    logits: Tensor  # [B, N+1, V] the target's raw logits
    ids: Tensor  # [B, N] int64 tokens, padded on the right with any id
    lines: Tensor  # [B, N] int64, the line that judges each token
    processed: Tensor | None = None  # [B, N+1, V]; None: as they are
    drawn: Tensor | None = None  # [B, N+1] int64 one draw behind every token; None: all greedy
    protected: Tensor | None = None  # [V] or [B, V] bool
    closing: Tensor | None = None  # [V] bool, as in Scores

    @property
    def final(self) -> Tensor:
        """The logits that the target chooses by.  [B, N+1, V]."""
        return self.logits if self.processed is None else self.processed

    @cached_property
    def choice(self) -> Tensor:
        """The target's own token behind every token.  [B, N+1] int64."""
        return self.final.argmax(-1) if self.drawn is None else self.drawn

    @cached_property
    def is_finite(self) -> Tensor:
        """Rows whose logits are numbers, as far as their choice hangs on them.  [B] bool."""
        if self.drawn is not None:
            # Softmax and draw make one NaN everybody's.
            return self.final.logsumexp(-1).isfinite().all(-1)
        return self.logits.gather(-1, self.choice[..., None])[..., 0].isfinite().all(-1)

    @cached_property
    def _chances(self) -> tuple[Tensor, Tensor]:
        """What Scores.probs gives to every token where it stands [B, N], and to the likeliest one
        [B, N+1].  A row at a time: of a tree's logits no second copy is wanted.
        """
        drafts, bests = [], []
        for final, lines, ids in zip(self.final, self.lines, self.ids, strict=True):
            probs = final.float().softmax(-1)
            drafts.append(probs[lines, ids])
            bests.append(probs.amax(-1))
        return torch.stack(drafts), torch.stack(bests)

    @property
    def p_draft(self) -> Tensor:
        """As Scores.p_draft.  [B, N]"""
        return self._chances[0]

    @property
    def p_best(self) -> Tensor:
        """As Scores.p_best, behind every token.  [B, N+1]"""
        return self._chances[1]

    @cached_property
    def draft_possible(self) -> Tensor:
        """Where the target gives a token any probability at all.  [B, N] bool."""
        rows = torch.arange(len(self.ids), device=self.ids.device)[:, None]
        return self.final[rows, self.lines, self.ids] > -torch.inf

    def entropy(self, kind: str, *, is_final: bool = False) -> Tensor:
        """As Scores.entropy, behind every token.  [B, N+1]"""
        key = kind, is_final and self.processed is not None
        if key not in self._entropies:
            logits = self.final if is_final else self.logits
            rows = [entropy_of(row.float().log_softmax(-1), kind) for row in logits]
            self._entropies[key] = torch.stack(rows)
        return self._entropies[key]

    @cached_property
    def _entropies(self) -> dict[tuple[str, bool], Tensor]:
        return {}

    def branches(
        self, rows: Tensor, nodes: Tensor, lengths: Tensor, locked: Tensor | None = None
    ) -> BranchScores:
        """What a rule sees of branches.

        Args:
            rows: [P] int64, whose tree each is in.
            nodes: [P, D] int64, its tokens' places in the tree, padded on the right with any.
            lengths: [P] int64.
            locked: [P, D] bool, places where nothing may be loosened.
        """
        return BranchScores(self, rows, nodes, lengths, locked)


class BranchScores(Scores):
    """Scores of branches; K is the longest one's length."""

    tree: TreeScores
    rows: Tensor  # [P] int64
    nodes: Tensor  # [P, K] int64

    def __init__(
        self, tree: TreeScores, rows: Tensor, nodes: Tensor, lengths: Tensor, locked: Tensor | None
    ) -> None:
        """Arguments as in TreeScores.branches."""
        lines = torch.cat([torch.zeros_like(rows[:, None]), nodes + 1], dim=1)  # [P, K+1]
        given = {"tree": tree, "rows": rows, "nodes": nodes, "lengths": lengths, "lines": lines}
        protected = tree.protected
        if protected is not None and protected.dim() == 2:
            protected = protected[rows]
        given |= {"locked": locked, "protected": protected, "closing": tree.closing}
        given |= {"ids": tree.ids[rows[:, None], nodes], "drawn": tree.choice[rows[:, None], lines]}
        # Not by the dataclass's own: `logits` and `processed` are copied when first asked for.
        for name, value in given.items():
            object.__setattr__(self, name, value)

    lines: Tensor  # [P, K+1] int64, of the tree's tables

    def _gather(self, table: Tensor) -> Tensor:
        """Lines of table [B, N+1, ...].  [P, K+1, ...]"""
        return table[self.rows[:, None], self.lines]

    @cached_property
    def logits(self) -> Tensor:
        """As in Scores."""
        return self._gather(self.tree.logits)

    @cached_property
    def processed(self) -> Tensor | None:
        """As in Scores."""
        return None if self.tree.processed is None else self._gather(self.tree.processed)

    @property
    def is_processed(self) -> bool:
        """As in Scores."""
        return self.tree.processed is not None

    @property
    def is_finite(self) -> Tensor:
        """Of all the row's tree."""
        return self.tree.is_finite[self.rows]

    @cached_property
    def p_draft(self) -> Tensor:
        """As in Scores."""
        return self.tree.p_draft[self.rows[:, None], self.nodes]

    @cached_property
    def p_best(self) -> Tensor:
        """As in Scores."""
        return self._gather(self.tree.p_best)[:, :-1]

    @cached_property
    def draft_possible(self) -> Tensor:
        """As in Scores."""
        return self.tree.draft_possible[self.rows[:, None], self.nodes]

    def entropy(self, kind: str, *, is_final: bool = False) -> Tensor:
        """As in Scores."""
        return self._gather(self.tree.entropy(kind, is_final=is_final))[:, :-1]
