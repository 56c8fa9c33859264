"""Deciders, which settle what every row keeps of its proposal.  One rule decides, or many at once
in a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fly.acceptance import Decision, Rule, Scores, leading_true
from fly.drafting import Proposal
from fly.drafting.uploads import RowInts, Upload, Uploads
from fly.engine.batch import Outcome, Row
from fly.engine.guards import Guards
from fly.engine.model.base import CausalModel
from fly.engine.recording import record_round
from fly.engine.sampling import RoundSampler
from fly.errors import DecodingError


@dataclass(eq=False)
class ChainRound:
    """A round's proposal while it is verified: chains; trees derive from it (tree.py)."""

    proposal: Proposal
    committed: Upload  # [B, 2] the last committed token and its position

    @classmethod
    def of(cls, proposal: Proposal, committed: Upload, uploads: Uploads) -> ChainRound:
        """Bring a proposal to the target's device."""
        return cls(proposal.to(committed.device, uploads), committed)

    def _opening(self, rows: Sequence[Row]) -> tuple[Tensor, RowInts]:
        """The last committed token and the proposal [B, K+1], and the position of the first."""
        known = self.committed.tensor
        ids = torch.cat([known[:, :1], self.proposal.ids], dim=1)
        return ids, RowInts([len(row.ids) - 1 for row in rows], known[:, 1])

    def verify(self, rows: Sequence[Row], target: CausalModel) -> Tensor:
        """The target's logits at the last committed token and after every proposed one.
        [B, K+1, V].
        """
        return target.extend(*self._opening(rows))

    def score(
        self, rows: Sequence[Row], logits: Tensor, sampler: RoundSampler, guards: Guards
    ) -> Scores:
        """The target's view, after every row's processors; of trees a line for every branch."""
        proposal = self.proposal
        processed = law = None
        if not sampler.is_plain:
            processed = sampler.process(logits, [0] * len(logits), proposal.ids.tolist)
            law = sampler.law(processed, proposal)
        scores = Scores(
            logits,
            proposal.ids,
            proposal.lengths,
            guards.protected_in(rows),
            processed,
            law,
            proposal.probs,
            locked=guards.places.locked(rows, proposal),
            closing=guards.places.closing_tokens,
        )
        scores.stopping = guards.stopping(rows, proposal, lambda: scores.choice[:, :-1])
        return scores

    def best(self, scores: Scores, decision: Decision) -> tuple[Scores, Decision]:
        """A line for every row: of trees the best branch."""
        return scores, decision

    def keep(self, rows: Sequence[Row], target: CausalModel) -> None:
        """Let the target's cache hold what `best` chose; chains lie there."""


class Decider(Protocol):
    """Decides rounds."""

    @property
    def required_followers(self) -> int:
        """As a rule's: how far proposals reach after what can still be emitted."""
        ...

    @property
    def needs_draft_probs(self) -> bool:
        """As a rule's."""
        ...

    def decide(
        self, rows: Sequence[Row], proposed: ChainRound, scores: Scores
    ) -> Sequence[Outcome]:
        """What every row keeps of its proposal.

        Raises:
            DecodingError: the target's logits are not finite.
        """
        ...


@dataclass(frozen=True)
class RuleDecider:
    """One rule decides; its rounds are recorded and counted as asked."""

    rule: Rule
    records_rounds: bool = False
    counts_official: bool = False  # the reference implementation's counters

    @property
    def required_followers(self) -> int:
        """The rule's."""
        return self.rule.required_followers

    @property
    def needs_draft_probs(self) -> bool:
        """The rule's."""
        return self.rule.needs_draft_probs

    def decide(
        self, rows: Sequence[Row], proposed: ChainRound, scores: Scores
    ) -> Sequence[Outcome]:
        scores.is_complete = self.records_rounds or self.counts_official
        scores, decision = proposed.best(scores, self.rule.accept(scores))
        outcomes = to_host(rows, scores, decision)
        if self.records_rounds:
            record_round(rows, scores, outcomes, self.rule)
        if self.counts_official:
            _count_official(rows, scores, decision)
        return outcomes


def to_host(rows: Sequence[Row], scores: Scores, decision: Decision) -> list[Outcome]:
    """The round's only wait for the device: everything decided, in one transfer."""
    kept = leading_true(decision.accepted)  # [B]
    own = scores.choice_at(kept, decision.weight)  # recovered, or bonus where all are kept
    single = torch.stack([kept, own, scores.is_finite.long(), scores.lengths], dim=1)
    columns = [single, scores.ids, decision.reason]
    table = torch.cat([column.to(torch.int64) for column in columns], dim=1).tolist()
    k = scores.ids.shape[1]
    outcomes = []
    for row, (num_kept, token, is_finite, num_proposed, *rest) in zip(rows, table, strict=True):
        if not is_finite:
            raise not_finite(row)
        proposed, reasons = rest[:num_proposed], rest[k : k + num_proposed]
        outcomes.append(Outcome(proposed, num_kept, reasons, token))
    return outcomes


def not_finite(row: Row) -> DecodingError:
    """What is raised where the target's logits after a row are not numbers."""
    return DecodingError(
        f"the target's logits are not finite behind token {len(row.ids)} of request {row.index}",
        fix="load the target in bfloat16 or float32, or check its weights",
    )


def _count_official(rows: Sequence[Row], scores: Scores, decision: Decision) -> None:
    """The reference implementation's counters: over whole proposals, after the first refusal too
    (docs/acceptance.md).
    """
    mismatches = (scores.in_proposal & ~scores.native).sum(-1)
    counts = torch.stack([mismatches, decision.windowed.sum(-1), decision.accepted.sum(-1)], 1)
    for row, (mismatched, windowed, accepted) in zip(rows, counts.tolist(), strict=True):
        row.statistics.official_mismatches += mismatched
        row.statistics.official_windowed += windowed
        row.statistics.official_accepted += accepted
