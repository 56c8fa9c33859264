"""Scores of one round, the only input of a rule.  They hold the target's logits over the proposal,
and what rules share, computed on first use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from fly.acceptance import tables
from fly.acceptance.decision import Decision, Reason
from fly.acceptance.fused import NUM_TOP
from fly.acceptance.refusals import followed_by, reasons, up_to_first
from fly.acceptance.rejection import RejectionSampling
from fly.acceptance.tables import Layout, LogitTable


class Scores:
    """The target's view of a proposal; row `lengths[b]` of `logits[b]` judges what follows the
    proposal.
    """

    def __init__(
        self,
        logits: Tensor | LogitTable,
        ids: Tensor,
        lengths: Tensor,
        protected: Tensor | None = None,
        processed: Tensor | None = None,
        law: RejectionSampling | None = None,
        draft_probs: Tensor | None = None,
        locked: Tensor | None = None,
        drawn: Tensor | None = None,
        closing: Tensor | None = None,
        stopping: Tensor | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Hold a round's tensors.

        Args:
            logits: [B, K+1, V] the target's raw logits; with a layout a table that others share.
            ids: [B, K] int64 proposed tokens, padded on the right with any id.
            lengths: [B] int64 proposal lengths, 0 to K.
            protected: [V] or [B, V] bool, tokens that no rule may loosen.
            processed: [B, K+1, V] logits after all processors; None: as they are.
            law: where rows are sampled.
            draft_probs: [B, K, V] q, what drafted the tokens; None where nothing did or nobody
                asked for it.
            locked: [B, K] bool, places where nothing may be loosened.
            drawn: [B, K+1] int64, the target's own tokens where they are known.
            closing: [V] bool, tokens that may begin the end of where loosening goes.
            stopping: [B, K] bool, places where a stop string is concerned; it may be set later,
                as it can be found only from `choice`.
            layout: where the places stand in flat tables; None: they are as above.
        """
        if not isinstance(logits, LogitTable):
            logits = LogitTable(logits, processed, is_flat=layout is not None)
        self.table = logits
        self.layout = Layout.dense(ids.shape[1]) if layout is None else layout
        self.ids, self.lengths = ids, lengths
        self.protected, self.closing = protected, closing
        self.locked, self.stopping = locked, stopping
        self.law, self.draft_probs, self.drawn = law, draft_probs, drawn
        self.is_complete = True  # decisions behind a row's first refusal are wanted, too

    @classmethod
    def from_flat(
        cls,
        logits: Tensor,
        ids: Tensor,
        lengths: Sequence[int],
        *,
        protected: Tensor | None = None,
        processed: Tensor | None = None,
        target_probs: Tensor | None = None,
        draft_probs: Tensor | None = None,
        draws: Tensor | None = None,
        is_sampled: Tensor | None = None,
    ) -> Scores:
        """Scores of ragged proposals that stand one after another, as in vLLM's sampler.  No table
        over the vocabulary is copied.

        Args:
            logits: [sum(K_b + 1), V]; or [sum(K_b), V], where `choice` after a whole proposal is
                -1, as nothing gives it.
            ids: [sum(K_b)] int64 proposed tokens.
            lengths: K_b of every row, on the host.
            protected: [V] or [B, V] bool.
            processed: as logits, after all processors.
            target_probs: as logits, p of sampled rows and one-hot lines of greedy ones; None: all
                rows are greedy.
            draft_probs: [sum(K_b), V] q; None where nothing was drawn.
            draws: [B, K+1, 2] float64, as in RejectionSampling.
            is_sampled: [B] bool.
        """
        layout = Layout.ragged(lengths, len(logits), logits.device)
        law = None
        if target_probs is not None:
            assert draws is not None
            assert is_sampled is not None
            law = RejectionSampling(target_probs, draft_probs, draws, is_sampled, layout)
        padded = pad_sequence(list(ids.split(list(lengths))), batch_first=True)
        return cls(
            logits,
            padded,
            torch.tensor(lengths, device=ids.device),
            protected,
            processed,
            law,
            draft_probs,
            layout=layout,
        )

    def view(
        self,
        layout: Layout,
        ids: Tensor,
        lengths: Tensor,
        *,
        drawn: Tensor,
        protected: Tensor | None = None,
        locked: Tensor | None = None,
        stopping: Tensor | None = None,
    ) -> Scores:
        """Other proposals that lie in the same tables: the beginnings of these, a tree's branches.
        What takes a pass over the vocabulary is shared.
        """
        return Scores(
            self.table,
            ids,
            lengths,
            protected,
            draft_probs=self.draft_probs,
            locked=locked,
            drawn=drawn,
            closing=self.closing,
            stopping=stopping,
            layout=layout,
        )

    @property
    def logits(self) -> Tensor:
        """The raw logits, copied from a flat table.  [B, K+1, V]"""
        return self.layout.target.dense(self.table.raw)

    def lines(self, rows: Tensor, places: Tensor, *, is_final: bool = False) -> Tensor:
        """Raw logits, or those after all processors, at places of rows, both [M].  [M, V]"""
        table = self.table.final if is_final else self.table.raw
        return self.layout.target.lines(table, rows, places)

    @property
    def processed(self) -> Tensor | None:
        """The logits after all processors; None: they are the raw ones.  [B, K+1, V]"""
        return None if self.table.processed is None else self.layout.target.dense(self.table.final)

    @property
    def final(self) -> Tensor:
        """The logits that the target chooses by, copied from a flat table.  [B, K+1, V]"""
        return self.layout.target.dense(self.table.final)

    @property
    def probs(self) -> Tensor:
        """The target's distributions over the proposal, after all processors; of a greedy row at
        temperature 1.  Copied from a flat table.  [B, K, V] float32.
        """
        return self.layout.judged.dense(self.table.probs)

    @property
    def is_processed(self) -> bool:
        """Whether processors changed the logits."""
        return self.table.processed is not None

    @cached_property
    def choice(self) -> Tensor:
        """The target's own token at every position: its argmax, or where rows are sampled the one
        that it draws should the proposed token be refused.  [B, K+1] int64.
        """
        if self.drawn is not None:
            return self.drawn
        num_rows, k = self.ids.shape
        if self.law is None:
            choice = self.layout.target.spread(self.table.choice)
        else:
            places = torch.arange(k + 1, device=self.ids.device).expand(num_rows, -1)
            choice = self.law.choice(self.ids, self.in_proposal, places)
        if self.layout.has_last:
            return choice
        return choice.masked_fill(~F.pad(self.in_proposal, (0, 1)), -1)

    def choice_at(self, places: Tensor, weight: Tensor | None = None) -> Tensor:
        """The target's own token at one place of every row, `places` [B].  [B] int64.

        Args:
            places: 0 to K.
            weight: [B, K+1], as in Decision.
        """
        is_known = "choice" in vars(self) and weight is None
        if self.law is None or is_known:
            return self.choice.gather(1, places[:, None])[:, 0]
        own = self.law.choice(self.ids, self.in_proposal, places[:, None], weight)[:, 0]
        return own if self.layout.has_last else own.masked_fill(places >= self.lengths, -1)

    @cached_property
    def is_finite(self) -> Tensor:
        """Rows whose logits are numbers, as far as their choice depends on them.  [B] bool."""
        if self.law is not None:
            is_number = self.law.is_finite(self.ids)
        else:
            # Plain argmax puts NaN first, so looking at the chosen logits finds any.
            chosen = self.choice.clamp_min(0)
            is_number = self.layout.target.pick(self.table.raw, chosen).isfinite()
        if self.layout.is_padded:
            return is_number.all(-1)
        steps = torch.arange(is_number.shape[1], device=self.ids.device)
        counts = self.lengths + self.layout.has_last
        return (is_number | (steps >= counts[:, None])).all(-1)

    @cached_property
    def positions_after(self) -> Tensor:
        """How many proposed tokens follow each position; negative after the proposal.
        [B, K] int64.
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
        return self._protected(self.choice[:, :-1].clamp_min(0))

    def _protected(self, choice: Tensor) -> Tensor:
        """As is_protected, where the target's own tokens are `choice` [B, K]."""
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
                for ids in (self.ids, choice):
                    forbidden = forbidden | table.gather(1, ids)
        return forbidden

    @cached_property
    def p_draft(self) -> Tensor:
        """What `probs` gives to the draft tokens.  [B, K]"""
        return self.table.p_of(self.layout.judged, self.ids)

    @cached_property
    def p_best(self) -> Tensor:
        """What `probs` gives to the likeliest token.  [B, K]"""
        return self.layout.judged.spread(self.table.p_best())

    @cached_property
    def top_logits(self) -> Tensor:
        """The three largest raw logits, -inf where there are fewer.  [B, K, 3] float32."""
        return self.layout.judged.spread(self.table.summary(is_final=False).top)

    @cached_property
    def draft_possible(self) -> Tensor:
        """Where the target gives the draft token any probability at all.  [B, K] bool."""
        return self.layout.judged.pick(self.table.final, self.ids) > -torch.inf

    @cached_property
    def draft_logit(self) -> Tensor:
        """The raw logits of the draft tokens.  [B, K] float32."""
        return self.layout.judged.pick(self.table.raw, self.ids).float()

    def over_probs(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` ([..., V] -> [...]) of `probs`.  [B, K]"""
        return self.layout.judged.spread(self.table.over_probs(reduce))

    def over_logits(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` ([..., V] -> [...]) of the raw logits in float32.  [B, K]"""
        return self.layout.judged.spread(self.table.over_logits(reduce))

    def compare(self, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        """`reduce` ([..., V], [..., V] -> [...]) of `probs` and the draft's distributions.  [B, K];
        None where the draft has none.
        """
        if self.draft_probs is None:
            return None
        return self.layout.compare(reduce, self.table.probs, self.draft_probs)

    def among_top(self, count: int, *, is_raw: bool = False) -> Tensor:
        """Where the draft token is among the `count` likeliest; equals of the last one are.
        After all processors, or by the raw logits.  [B, K] bool.
        """
        is_final = not is_raw
        if count <= NUM_TOP:
            least = self.table.summary(is_final=is_final).top[..., count - 1]
        else:
            size = min(count, self.table.raw.shape[-1])
            least = self.table.over_logits(
                lambda logits: logits.topk(size, dim=-1).values[..., -1], is_final=is_final
            )
        table = self.table.final if is_final else self.table.raw
        drafted = self.layout.judged.pick(table, self.ids).float()
        return drafted >= self.layout.judged.spread(least)

    def entropy(self, kind: str, *, is_final: bool = False) -> Tensor:
        """The target's uncertainty at every proposed position.  [B, K] float32.

        Args:
            kind: `top3`, minus the sum of p ln p over the three most probable tokens, not
                renormalised, in nats; `full`, over the whole vocabulary, in nats; `normalised`,
                `full` divided by ln V (arXiv 2511.22972).  `top3` is the reference implementation's
                score.  It is *not* monotone in uncertainty: a very flat row scores low.
            is_final: of what the processors leave, as `probs`; else of the raw logits.
        """
        return self.layout.judged.spread(self.table.entropy(kind, is_final=is_final))

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
        gate: Tensor | Callable[[Scores], Tensor] | None = None,
        fits: Tensor | None = None,
        window: Tensor | None = None,
    ) -> Decision:
        """Keep a native mismatch where all three conditions hold and nothing protected is
        concerned; a condition that is None holds everywhere.

        Args:
            gate: [B, K] bool, the rule's condition holds; or what finds it from scores that are
                right only where it matters.
            fits: [B, K] bool, enough positions follow in the proposal.
            window: [B, K] bool, the inspected followers are native matches.
        """
        native, inside = self.native, self.in_proposal
        mismatch = inside & ~native
        everywhere = torch.ones_like(mismatch)
        fits = everywhere if fits is None else fits
        windowed = mismatch & fits & (everywhere if window is None else window)
        reached = mismatch if self.is_complete else mismatch & up_to_first(mismatch & ~windowed)
        free = ~self._protected_at(reached)
        if callable(gate):
            reached = reached & free
            if not self.is_complete:
                reached = reached & up_to_first(mismatch & ~(windowed & free))
            gate = gate(self.only(reached)) & reached
        gate = everywhere if gate is None else gate
        loose = windowed & gate & free
        reason = reasons(native, loose, free=free, gate=gate, fits=fits, inside=inside)
        return Decision(native | loose, loose, reason, windowed)

    def _protected_at(self, places: Tensor) -> Tensor:
        """is_protected, right at some places [B, K] bool.  [B, K] bool."""
        law = None if "choice" in vars(self) else self.law
        if law is None or not tables.picks_places(self.ids.device):
            return self.is_protected
        if self.protected is None and self.closing is None:
            return self._protected(self.ids)
        rows, steps = places.nonzero(as_tuple=True)
        own = law.choice_of(self.ids, self.in_proposal, rows, steps)
        return self._protected(self.ids.index_put((rows, steps), own))

    def only(self, places: Tensor) -> Scores:
        """The same scores, whose passes over the vocabulary look at some places [B, K] bool alone
        where that pays; elsewhere what they give means nothing.
        """
        if not tables.picks_places(self.ids.device):
            return self
        part = copy.copy(self)
        part.table = self.table.only(self.layout.judged.mark(places, self.table.num_lines))
        return part
