"""Verification of trees, all branches in one forward.  The rule decides on every branch by itself,
and the best branch moves into its slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fly.acceptance import Decision, Scores, leading_true
from fly.acceptance.tables import Layout, LogitTable, PlaceIndex
from fly.drafting import Proposal, TreeMask
from fly.drafting.uploads import Upload, Uploads, upload
from fly.engine.batch import Row
from fly.engine.deciding import ChainRound
from fly.engine.guards import Guards
from fly.engine.model.base import CausalModel, TreeVerifier
from fly.engine.sampling import RoundSampler


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
        climbed = torch.stack([*upwards, place], dim=1)  # [P, D+1], -1 after the end
        count = (climbed >= 0).sum(1)
        steps = count[:, None] - 1 - torch.arange(len(upwards))
        nodes = torch.where(steps >= 0, climbed.gather(1, steps.clamp_min(0)), -1)
        order = torch.from_numpy(np.lexsort([*nodes.T.numpy()[::-1], rows.numpy()]))
        return cls(rows[order], nodes[order].clamp_min(0), count[order])

    def promise(self, uploads: Uploads, device: torch.device) -> Upload:
        """Let a device get them; see `sent`."""
        columns = [self.rows[:, None], self.lengths[:, None], self.nodes]
        return uploads.add(torch.cat(columns, dim=1), device)

    @classmethod
    def sent(cls, promised: Upload) -> Branches:
        """The same on the device."""
        columns = promised.tensor
        return cls(columns[:, 0], columns[:, 2:], columns[:, 1])

    def pick(self, chosen: Tensor) -> Branches:
        """Some of them."""
        return Branches(self.rows[chosen], self.nodes[chosen], self.lengths[chosen])


@dataclass(eq=False)
class TreeRound(ChainRound):
    """A round's trees while they are verified.

    Differs from the reference implementation, whose trees are wrong (docs/drafters.md).  Positions
    go by depth, and the target draws one token after every token of the tree.  The recovered or
    bonus token is the one after the kept branch, whose keys are what the cache keeps.
    """

    mask: TreeMask  # over the last committed token and the proposal, on the host
    branches: Branches  # on the host
    there: tuple[Tensor, Branches]  # the mask and they, on the target's device
    _kept: Branches | None = None  # of every row the best one

    @classmethod
    def of(cls, proposal: Proposal, committed: Upload, uploads: Uploads) -> TreeRound:
        """Look at the trees, which waits for a drafter that did not grow them on the host: once."""
        assert proposal.parents is not None
        shape = torch.cat([proposal.lengths[:, None], proposal.parents], dim=1)
        shape = shape if proposal.is_on_host else shape.cpu()
        lengths, parents = shape[:, 0], shape[:, 1:]
        longest = max(1, int(lengths.max()))
        if longest < proposal.ids.shape[1]:
            ids, above = proposal.ids[:, :longest], proposal.parents[:, :longest]
            proposal, parents = replace(proposal, ids=ids, parents=above), parents[:, :longest]
        places = torch.arange(longest)
        parents = torch.where(places < lengths[:, None], parents, -1)
        if not bool(((parents >= -1) & (parents < places)).all()):
            raise ValueError("a token of a tree stands before the one that it follows")
        behind_last = torch.cat([torch.full_like(lengths[:, None], -1), parents + 1], dim=1)
        mask, branches = TreeMask.from_parents(behind_last), Branches.of(parents, lengths)
        promised = branches.promise(uploads, committed.device)
        proposal = proposal.to(committed.device, uploads)
        there = upload(mask.seen, committed.device), Branches.sent(promised)
        return cls(proposal, committed, mask, branches, there)

    def verify(self, rows: Sequence[Row], target: CausalModel) -> Tensor:
        """The target's logits at the last committed token and after every token of the trees.
        [B, N+1, V].
        """
        assert isinstance(target, TreeVerifier)
        return target.extend_tree(*self._opening(rows), TreeMask(self.there[0]))

    def score(
        self, rows: Sequence[Row], logits: Tensor, sampler: RoundSampler, guards: Guards
    ) -> Scores:
        """The target's view of all branches, after every row's processors.  What takes a pass over
        the vocabulary is computed once for every token of a tree.
        """
        processed = drawn = None
        if not sampler.is_plain:
            processed = sampler.process_tree(logits, self._texts)
            drawn = sampler.drawn(processed)
        table = LogitTable(logits, processed, is_flat=True)
        choice = table.choice if drawn is None else drawn  # [B, N+1]
        branches = self.there[1]
        own = branches.rows[:, None]
        lines = torch.cat([torch.zeros_like(own), branches.nodes + 1], dim=1)  # [P, D+1]
        ids = self.proposal.ids[own, branches.nodes]
        chains = Proposal(ids, branches.lengths, copies_context=self.proposal.copies_context)
        owners = [rows[row] for row in self.branches.rows.tolist()]
        protected = guards.protected_in(rows)
        if protected is not None and protected.dim() == 2:
            protected = protected[branches.rows]
        scores = Scores(
            table,
            ids,
            branches.lengths,
            protected,
            locked=guards.places.locked(owners, chains),
            drawn=choice[own, lines],
            closing=guards.places.closing_tokens,
            layout=_layout(own * logits.shape[1] + lines),
        )
        scores.stopping = guards.stopping(owners, chains, lambda: scores.choice[:, :-1])
        scores.is_finite = _is_finite(table, drawn)[branches.rows]  # of all the row's tree
        return scores

    def _texts(self) -> list[list[list[int]]]:
        """What every line of the logits follows after the committed tokens."""
        seen, ids = self.mask.seen[:, :, 1:].numpy(), self.proposal.ids.cpu().numpy()
        return [
            [own[line].tolist() for line in lines] for own, lines in zip(ids, seen, strict=True)
        ]

    def best(self, scores: Scores, decision: Decision) -> tuple[Scores, Decision]:
        """Every row's best branch."""
        branches = self.there[1]
        num_rows, size = self.proposal.ids.shape
        best = _best(branches, decision, num_rows, size)
        self._kept = branches.pick(best)
        index = scores.layout.target.index
        assert index is not None
        one = scores.view(
            _layout(index[best]), scores.ids[best], scores.lengths[best], drawn=scores.choice[best]
        )
        one.is_finite = scores.is_finite[best]
        return one, Decision(
            decision.accepted[best],
            decision.loose[best],
            decision.reason[best],
            decision.windowed[best],
        )

    def keep(self, rows: Sequence[Row], target: CausalModel) -> None:
        """The target's cache keeps the best branches: what lay in slots by the order of the
        proposal now lies in slots by position.
        """
        kept = self._kept
        assert kept is not None
        if len(self.branches.rows) == len(rows):
            return  # each tree is a chain, which lies there already
        assert isinstance(target, TreeVerifier)
        first = self.committed.tensor[:, 1:] + 1
        steps = torch.arange(kept.nodes.shape[1], device=first.device)
        target.keep_slots(first + kept.nodes, first + steps)


def _layout(index: Tensor) -> Layout:
    """Branches whose places have these lines [P, D+1] of the trees' tables."""
    count = index.shape[1]
    return Layout(PlaceIndex(count, index), PlaceIndex(count - 1))


def _is_finite(table: LogitTable, drawn: Tensor | None) -> Tensor:
    """Rows whose logits are numbers, as far as their choice depends on them.  [B] bool."""
    if drawn is not None:
        # Softmax and draw make one NaN everybody's.
        return table.final.logsumexp(-1).isfinite().all(-1)
    return table.raw.gather(-1, table.choice[..., None])[..., 0].isfinite().all(-1)


def _best(branches: Branches, decision: Decision, num_rows: int, size: int) -> Tensor:
    """Of every row the branch that keeps most tokens.  [B] int64.

    Of several it is the one with the fewest loose tokens, then the one whose last kept token stands
    first in the proposal, then the first.
    """
    num_branches, depth = branches.nodes.shape
    device = branches.nodes.device
    order = torch.arange(num_branches, device=device)
    kept = leading_true(decision.accepted)  # [P]
    steps = torch.arange(depth, device=device)
    loose = (decision.loose & (steps < kept[:, None])).sum(1)
    last = branches.nodes.gather(1, (kept[:, None] - 1).clamp_min(0))[:, 0]
    last = torch.where(kept > 0, last, 0)
    key = (kept * (depth + 1) + depth - loose) * (size + 1) + size - last
    key = key * num_branches + num_branches - 1 - order
    most = key.new_zeros(num_rows).scatter_reduce(0, branches.rows, key, "amax")
    return num_branches - 1 - most % num_branches
