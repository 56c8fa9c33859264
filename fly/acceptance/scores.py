"""What a rule sees of one round: the target's logits over the proposal, and what rules share,
computed when first asked for.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from fly.acceptance.decision import Decision, Reason
from fly.acceptance.law import Law


@dataclass(frozen=True, eq=False)
class Scores:
    """The target's view of a proposal; row `lengths[b]` of `logits[b]` judges what follows the
    proposal.
    """

    logits: Tensor  # [B, K+1, V] the target's raw logits
    ids: Tensor  # [B, K] int64 proposed tokens, padded on the right with any id
    lengths: Tensor  # [B] int64 proposal lengths, 0 to K
    protected: Tensor | None = None  # [V] or [B, V] bool, tokens that no rule may loosen
    processed: Tensor | None = None  # [B, K+1, V] logits after all processors; None: as they are
    law: Law | None = None  # where rows are sampled
    # [B, K, V] q, what drafted the tokens; None where nothing did or nobody asked for it
    draft_probs: Tensor | None = None
    locked: Tensor | None = None  # [B, K] bool, places where nothing may be loosened
    drawn: Tensor | None = None  # [B, K+1] int64, the target's own tokens where they are known
    closing: Tensor | None = None  # [V] bool, tokens that may begin the end of where loosening goes
    stopping: Tensor | None = None  # [B, K] bool, places where a stop string is concerned

    def guarded(self, stopping: Tensor | None) -> Scores:
        """The same with `stopping`, which can be told only from `choice`; that stays known."""
        other = copy(self)
        object.__setattr__(other, "stopping", stopping)
        return other

    @cached_property
    def choice(self) -> Tensor:
        """The target's own token at every position: its argmax, or where rows are sampled the one
        that it draws should the proposed token be refused.  [B, K+1] int64.
        """
        if self.drawn is not None:
            return self.drawn
        if self.law is None:
            return self.final.argmax(-1)
        num_rows, k = self.ids.shape
        places = torch.arange(k + 1, device=self.ids.device).expand(num_rows, -1)
        return self.law.choice(self.ids, self.in_proposal, places)

    def choice_at(self, places: Tensor, weight: Tensor | None = None) -> Tensor:
        """The target's own token at one place of every row, `places` [B].  [B] int64.

        Args:
            places: 0 to K.
            weight: [B, K+1], as in Decision.
        """
        is_known = self.law is None or ("choice" in vars(self) and weight is None)
        if is_known or self.law is None:
            return self.choice.gather(1, places[:, None])[:, 0]
        return self.law.choice(self.ids, self.in_proposal, places[:, None], weight)[:, 0]

    @property
    def is_finite(self) -> Tensor:
        """Rows whose logits are numbers, as far as their choice hangs on them.  [B] bool."""
        if self.law is not None:
            return self.law.target.sum(-1).isfinite().all(-1)
        # Plain argmax puts NaN first, so looking at the chosen logits finds any.
        best = self.logits.gather(-1, self.choice[..., None])[..., 0]  # [B, K+1]
        return best.isfinite().all(-1)

    @property
    def is_processed(self) -> bool:
        """Whether processors changed the logits."""
        return self.processed is not None

    @property
    def final(self) -> Tensor:
        """The logits that the target chooses by.  [B, K+1, V]."""
        return self.logits if self.processed is None else self.processed

    @cached_property
    def positions_after(self) -> Tensor:
        """How many proposed tokens follow each position; negative behind the proposal.  [B, K]
        int64.
        """
        steps = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.lengths[:, None] - 1 - steps

    @cached_property
    def in_proposal(self) -> Tensor:
        """Which positions carry a proposed token.  [B, K] bool."""
        return self.positions_after >= 0

    @cached_property
    def native(self) -> Tensor:
        """Native acceptance: the draft token is the target's argmax, or where rows are sampled the
        draw u < p/q.  [B, K] bool.
        """
        if self.law is not None and self.drawn is None:
            return self.law.accepts(self.ids) & self.in_proposal
        return (self.ids == self.choice[:, :-1]) & self.in_proposal

    @cached_property
    def is_protected(self) -> Tensor:
        """Where draft token or target's choice may not be traded for another, the processors
        forbid the draft token, or nothing may be loosened at all.  [B, K] bool.
        """
        if self.is_processed:
            forbidden = ~self.draft_possible
        else:
            forbidden = torch.zeros_like(self.ids, dtype=torch.bool)
        for places in (self.locked, self.stopping):
            if places is not None:
                forbidden = forbidden | places
        for tokens in (self.protected, self.closing):
            if tokens is not None:
                table = tokens.expand(len(self.ids), -1)  # [B, V]
                for ids in (self.ids, self.choice[:, :-1]):
                    forbidden = forbidden | table.gather(1, ids)
        return forbidden

    @cached_property
    def probs(self) -> Tensor:
        """The target's distributions over the proposal, behind all processors; of a greedy row at
        temperature 1.  [B, K, V] float32.
        """
        return self.final[:, :-1].float().softmax(-1)

    @cached_property
    def p_draft(self) -> Tensor:
        """What `probs` gives to the draft tokens.  [B, K]"""
        return self.probs.gather(-1, self.ids[..., None])[..., 0]

    @cached_property
    def p_best(self) -> Tensor:
        """What `probs` gives to the likeliest token.  [B, K]"""
        return self.probs.amax(-1)

    def entropy(self, kind: str, *, is_final: bool = False) -> Tensor:
        """The target's uncertainty at every proposed position.  [B, K] float32.

        Args:
            kind: `top3`, minus the sum of p ln p over the three most probable tokens, not
                renormalised, in nats (the reference implementation's score, which is *not* monotone
                in uncertainty: a very flat row scores low); `full`, over the whole vocabulary, in
                nats; `normalised`, `full` divided by ln V (arXiv 2511.22972).
            is_final: of what the processors leave, as `probs`; else of the raw logits.
        """
        key = kind, is_final and self.is_processed
        if key not in self._entropies:
            logits = self.final if is_final else self.logits
            log_probs = F.log_softmax(logits[:, :-1].float(), dim=-1)
            self._entropies[key] = entropy_of(log_probs, kind)
        return self._entropies[key]

    @cached_property
    def _entropies(self) -> dict[tuple[str, bool], Tensor]:
        return {}

    @cached_property
    def draft_possible(self) -> Tensor:
        """Where the target gives the draft token any probability at all.  [B, K] bool."""
        return self.final[:, :-1].gather(-1, self.ids[..., None])[..., 0] > -torch.inf

    def followed_by(self, count: int) -> Tensor:
        """Where the next `count` positions are native matches.  [B, K] bool."""
        return followed_by(self.native, count)

    def strict(self) -> Decision:
        """Native acceptance and nothing else."""
        reason = torch.where(self.native, int(Reason.MATCH), int(Reason.STRICT)).to(torch.int8)
        reason.masked_fill_(~self.in_proposal, Reason.OUTSIDE)
        never = torch.zeros_like(self.native)
        return Decision(self.native, never, reason, never)

    def loosened(
        self,
        *,
        gate: Tensor | None = None,
        fits: Tensor | None = None,
        window: Tensor | None = None,
    ) -> Decision:
        """Keep a native mismatch where all three conditions hold and nothing protected is
        concerned; a condition that is None holds everywhere.

        Args:
            gate: [B, K] bool, the rule's condition holds.
            fits: [B, K] bool, enough positions follow in the proposal.
            window: [B, K] bool, the inspected followers are native matches.
        """
        mismatch = self.in_proposal & ~self.native
        everywhere = torch.ones_like(mismatch)
        gate = everywhere if gate is None else gate
        fits = everywhere if fits is None else fits
        windowed = mismatch & fits & (everywhere if window is None else window)
        free = ~self.is_protected
        loose = windowed & gate & free
        reason = torch.full_like(self.ids, int(Reason.WINDOW), dtype=torch.int8)
        # From the last condition looked at to the first, so that the first one that failed is what
        # stays.
        reason.masked_fill_(~fits, Reason.BOUNDARY).masked_fill_(~gate, Reason.GATE)
        reason.masked_fill_(~free, Reason.PROTECTED)
        reason.masked_fill_(loose, Reason.LOOSE).masked_fill_(self.native, Reason.MATCH)
        reason.masked_fill_(~self.in_proposal, Reason.OUTSIDE)
        return Decision(self.native | loose, loose, reason, windowed)


def entropy_of(log_probs: Tensor, kind: str) -> Tensor:
    """The entropy of distributions log_probs [..., V], as Scores.entropy names its kinds.  [...]"""
    vocab_size = log_probs.shape[-1]
    if kind == "top3":
        log_probs = log_probs.topk(min(3, vocab_size), dim=-1).values
    # A forbidden token has log p = -inf and contributes nothing; without the clamp it would be
    # 0 * -inf = NaN.
    entropy = -(log_probs.exp() * log_probs.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
    return entropy / math.log(vocab_size) if kind == "normalised" else entropy


def among_top(table: Tensor, ids: Tensor, count: int) -> Tensor:
    """Where ids [B, K] are among the `count` largest of table [B, K, V]; equals of the last one
    are.  [B, K] bool.
    """
    least = table.topk(min(count, table.shape[-1]), dim=-1).values[..., -1]
    return table.gather(-1, ids[..., None])[..., 0] >= least


def leading_true(mask: Tensor) -> Tensor:
    """Length of the prefix of True in every row.  mask [B, K] bool -> [B] int64."""
    return mask.cumprod(-1, dtype=torch.int64).sum(-1)


def followed_by(mask: Tensor, count: int) -> Tensor:
    """Where the next `count` positions are all True; False where the row ends before.  mask [B, K]
    bool -> [B, K] bool.
    """
    if count == 0 or mask.shape[1] == 0:
        return torch.ones_like(mask)
    return F.pad(mask, (0, count)).unfold(1, count + 1, 1)[..., 1:].all(-1)
