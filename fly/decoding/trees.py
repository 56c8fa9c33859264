"""Verifying trees: all branches in one forward, the rule on every branch by itself, the best branch
into its slots.

Differs from the reference implementation, whose trees are wrong (docs/drafters.md): positions go by
depth, the target draws one token behind every token of the tree, the correction or bonus is the one
behind the kept branch, and that branch's keys are what the cache keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from fly.acceptance import Rule, Scores, Verdict, leading_true
from fly.acceptance.branches import TreeScores
from fly.decoding.protocol import CausalModel, Guard, TreeVerifier
from fly.decoding.rows import Row
from fly.decoding.sampling import RoundSampler
from fly.decoding.stop_guard import StopGuard
from fly.drafting import Proposal, TreeMask

# Logits that a rule is shown at once, copied branch by branch if it reads them (256 MiB).
BRANCH_LOGITS = 2**26


@dataclass(frozen=True, eq=False)
class Branches:
    """Every way from a row's last committed token to a leaf; a row without a tree has an empty
    one.  In the order of the rows, and within a row in that of their tokens.
    """

    rows: Tensor  # [P] int64
    nodes: Tensor  # [P, D] int64 places in the proposal, padded on the right with 0
    lengths: Tensor  # [P] int64

    @classmethod
    def of(cls, parents: Tensor, lengths: Tensor) -> Branches:
        """Find them.

        Args:
            parents: [B, N] int64 on the host, as in Proposal.
            lengths: [B] int64 on the host.
        """
        num_rows, size = parents.shape
        is_node = torch.arange(size) < lengths[:, None]
        followed = torch.zeros(num_rows, size + 1, dtype=torch.bool)
        followed.scatter_(1, torch.where(is_node, parents, -1) % (size + 1), value=True)
        is_leaf = is_node & ~followed[:, :size]
        found = torch.cat([is_leaf, lengths[:, None] == 0], dim=1).nonzero()
        rows, place = found[:, 0], torch.where(found[:, 1] == size, -1, found[:, 1])
        above = torch.cat([parents, parents.new_full((num_rows, 1), -1)], dim=1)
        upwards = []
        while bool((place >= 0).any()):
            upwards.append(place)
            place = above[rows, place]
        climbed = torch.stack([*upwards, place], dim=1)  # [P, D+1], -1 behind the end
        count = (climbed >= 0).sum(1)
        steps = count[:, None] - 1 - torch.arange(len(upwards))
        nodes = torch.where(steps >= 0, climbed.gather(1, steps.clamp_min(0)), -1)
        order = torch.from_numpy(np.lexsort([*nodes.T.numpy()[::-1], rows.numpy()]))
        return cls(rows[order], nodes[order].clamp_min(0), count[order])

    def to(self, device: torch.device) -> Branches:
        """The same on `device`."""
        return Branches(self.rows.to(device), self.nodes.to(device), self.lengths.to(device))

    def pick(self, chosen: Tensor) -> Branches:
        """Some of them."""
        return Branches(self.rows[chosen], self.nodes[chosen], self.lengths[chosen])


@dataclass(frozen=True, eq=False)
class TreeRound:
    """A round's trees while they are verified."""

    proposal: Proposal
    mask: TreeMask  # over the last committed token and the proposal, on the host
    branches: Branches  # on the host

    @classmethod
    def of(cls, proposal: Proposal) -> TreeRound | None:
        """Look at what is proposed, which waits for the drafter; None if it is a chain."""
        if proposal.parents is None or proposal.ids.shape[1] == 0:
            return None
        lengths = proposal.lengths.cpu()
        places = torch.arange(proposal.ids.shape[1])
        parents = torch.where(places < lengths[:, None], proposal.parents.cpu(), -1)
        if not bool(((parents >= -1) & (parents < places)).all()):
            raise ValueError("a token of a tree stands before the one that it follows")
        behind_last = torch.cat([torch.full_like(lengths[:, None], -1), parents + 1], dim=1)
        return cls(proposal, TreeMask.from_parents(behind_last), Branches.of(parents, lengths))

    def verify(self, rows: Sequence[Row], target: CausalModel) -> Tensor:
        """The target's logits at the last committed token and behind every token of the trees.
        [B, N+1, V].
        """
        assert isinstance(target, TreeVerifier)
        ids = self.proposal.ids
        last = torch.tensor([row.ids[-1:] for row in rows], device=ids.device)
        starts = [len(row.ids) - 1 for row in rows]
        mask = TreeMask(self.mask.seen.to(ids.device))
        return target.extend_tree(torch.cat([last, ids], dim=1), starts, mask)

    def score(
        self,
        logits: Tensor,
        sampler: RoundSampler,
        protected: Tensor | None,
        closing: Tensor | None = None,
    ) -> TreeScores:
        """The target's view of the trees, behind every row's processors."""
        processed = drawn = None
        if not sampler.is_plain:
            processed = sampler.process_tree(logits, self._texts)
            drawn = sampler.drawn(processed)
        parents = self.proposal.parents
        assert parents is not None
        # Behind a row's tree any line will do.
        lines = (parents + 1).clamp(0, parents.shape[1])
        return TreeScores(logits, self.proposal.ids, lines, processed, drawn, protected, closing)

    def _texts(self) -> list[list[list[int]]]:
        """What every line of the logits follows behind the committed tokens."""
        seen, ids = self.mask.seen[:, :, 1:].numpy(), self.proposal.ids.cpu().numpy()
        return [
            [own[line].tolist() for line in lines] for own, lines in zip(ids, seen, strict=True)
        ]

    def decide(
        self,
        rows: Sequence[Row],
        scores: TreeScores,
        rule: Rule,
        guard: Guard | None,
        stop_guard: StopGuard | None = None,
    ) -> tuple[Scores, Verdict, Branches]:
        """Every row's best branch, as it was scored and judged."""
        branches = self.branches.to(scores.ids.device)
        locked = self._locked(rows, scores, branches, guard, stop_guard)
        size = max(
            1, BRANCH_LOGITS // (scores.logits[0, 0].numel() * (branches.nodes.shape[1] + 1))
        )
        verdicts = []
        for part in torch.arange(len(branches.rows), device=scores.ids.device).split(size):
            shown = branches.pick(part)
            held = None if locked is None else locked[part]
            seen = scores.branches(shown.rows, shown.nodes, shown.lengths, held)
            verdicts.append(rule.accept(seen))
        verdict = _joined(verdicts)
        best = _best(branches, verdict, scores.ids)
        kept = branches.pick(best)
        locked = None if locked is None else locked[best]
        view = scores.branches(kept.rows, kept.nodes, kept.lengths, locked)
        return view, _joined([verdict], best), kept

    def _locked(
        self,
        rows: Sequence[Row],
        scores: TreeScores,
        branches: Branches,
        guard: Guard | None,
        stop_guard: StopGuard | None,
    ) -> Tensor | None:
        """Places of the branches where nothing may be loosened.  [P, D] bool."""
        owners = [rows[row] for row in self.branches.rows.tolist()]
        lines, nodes = branches.rows[:, None], branches.nodes
        copies = self.proposal.copies_context
        chains = Proposal(self.proposal.ids[lines, nodes], branches.lengths, copies_context=copies)
        locked = None if guard is None else guard.locked(owners, chains)
        if stop_guard is None:
            return locked
        before = torch.cat([torch.zeros_like(nodes[:, :1]), nodes[:, :-1] + 1], dim=1)
        stopping = stop_guard.concerned(owners, chains, scores.choice[lines, before])
        if locked is None or stopping is None:
            return stopping if locked is None else locked
        return locked | stopping

    def keep(self, rows: Sequence[Row], target: CausalModel, kept: Branches) -> None:
        """The target's cache keeps the branches: what lay in slots by the order of the proposal now
        lies in slots by position.
        """
        if len(self.branches.rows) == len(rows):
            return  # each tree is a chain, which lies there already
        assert isinstance(target, TreeVerifier)
        device = kept.nodes.device
        first = torch.tensor([len(row.ids) for row in rows], device=device)[:, None]
        steps = torch.arange(kept.nodes.shape[1], device=device)
        target.keep_slots(first + kept.nodes, first + steps)


def _joined(verdicts: Sequence[Verdict], chosen: Tensor | None = None) -> Verdict:
    """One verdict over all lines, or over those chosen."""
    joined = {}
    for name in (field.name for field in fields(Verdict)):
        parts = [getattr(verdict, name) for verdict in verdicts]
        if parts[0] is not None:
            whole = torch.cat(parts)
            joined[name] = whole if chosen is None else whole[chosen]
    return Verdict(**joined)


def _best(branches: Branches, verdict: Verdict, ids: Tensor) -> Tensor:
    """Of every row the branch that keeps most tokens, of these the one with the fewest loose ones,
    then the one whose last kept token stands first in the proposal, then the first.  [B] int64.
    """
    (num_branches, depth), (num_rows, size) = branches.nodes.shape, ids.shape
    order = torch.arange(num_branches, device=ids.device)
    kept = leading_true(verdict.accepted)  # [P]
    steps = torch.arange(depth, device=ids.device)
    loose = (verdict.loose & (steps < kept[:, None])).sum(1)
    last = branches.nodes.gather(1, (kept[:, None] - 1).clamp_min(0))[:, 0]
    last = torch.where(kept > 0, last, 0)
    key = (kept * (depth + 1) + depth - loose) * (size + 1) + size - last
    key = key * num_branches + num_branches - 1 - order
    most = key.new_zeros(num_rows).scatter_reduce(0, branches.rows, key, "amax")
    return num_branches - 1 - most % num_branches
