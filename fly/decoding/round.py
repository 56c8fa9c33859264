"""One round: propose, verify, accept, commit.  Every row gains 1 to K+1 tokens; the target's cache
then holds all of a row's tokens but the last, and nothing is ever cropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fly.acceptance import Rule, Scores, Verdict, leading_true
from fly.acceptance.protocol import REFUSALS
from fly.decoding.guards import protected_in
from fly.decoding.outcome import Outcome
from fly.decoding.plain_rounds import PlainRounds
from fly.decoding.protocol import CausalModel, Guard
from fly.decoding.rows import Row
from fly.decoding.sampling import RoundSampler
from fly.decoding.stop_guard import StopGuard
from fly.decoding.stopping import StopRules
from fly.decoding.tracing import record_round
from fly.decoding.trees import TreeRound
from fly.drafting import Drafter, Proposal
from fly.drafting.pacing import DraftLength
from fly.errors import DecodingError

logger = logging.getLogger(__name__)

REFUSAL_COUNTERS = {int(reason): f"refused_{reason.name.lower()}" for reason in REFUSALS}


@dataclass(frozen=True)
class Engine:
    """What a round needs besides the rows."""

    target: CausalModel
    drafter: Drafter
    length: DraftLength
    rule: Rule
    stops: StopRules
    protected: Tensor | None  # [V] bool
    record_rounds: bool
    count_official: bool
    is_verbose: bool = False
    num_counted: int = 0  # proposed tokens that count though they may not matter (see assembling)
    judge: Judge | None = None  # decides in place of the rule
    guard: Guard | None = None  # where nothing may be loosened
    stop_guard: StopGuard | None = None  # None: stop strings are not guarded
    plain_rounds: PlainRounds | None = None  # in between, timed; None: there are none

    @property
    def lookahead(self) -> int:
        """Of whoever decides (acceptance.Rule)."""
        return self.rule.lookahead if self.judge is None else self.judge.lookahead


class Judge(Protocol):
    """Decides rounds in place of a rule, for those who weigh several rules on the same scores.

    What is recorded of single rounds, and the reference implementation's counters, need a rule.
    """

    @property
    def lookahead(self) -> int:
        """As a rule's: how far proposals reach behind what can still be emitted."""
        ...

    def decide(self, rows: Sequence[Row], proposal: Proposal, scores: Scores) -> Sequence[Outcome]:
        """What every row keeps of its proposal.

        Raises:
            DecodingError: the target's logits are not finite.
        """
        ...


def run_round(rows: Sequence[Row], engine: Engine) -> None:
    """Advance all rows; a row that reached its end gets its finish reason.

    Raises:
        DecodingError: the target's logits are not finite.
    """
    marks = [time.perf_counter()]
    keeps_probs = engine.rule.needs_draft_probs
    sampler = RoundSampler(rows, engine.target.vocab_size, keeps_probs=keeps_probs)
    limits = [_limit(row, engine) for row in rows]
    if engine.plain_rounds is not None:
        limits = engine.plain_rounds.limits(rows, limits)
    proposal = engine.drafter.propose(rows, engine.length.limits(rows, limits), sampler)
    engine.length.proposed(proposal)
    proposal = proposal.to(engine.target.device)
    marks.append(time.perf_counter())
    tree = TreeRound.of(proposal)
    if tree is None:
        logits = _verify(rows, proposal, engine.target)
        marks.append(time.perf_counter())
        outcomes = _decide_chain(rows, logits, proposal, sampler, engine)
    else:
        logits = tree.verify(rows, engine.target)
        marks.append(time.perf_counter())
        outcomes = _decide_tree(rows, logits, tree, sampler, engine)
    if engine.is_verbose:
        _log(rows, outcomes)
    marks.append(time.perf_counter())
    # Before anything is committed: what fails here leaves the rows as they were.
    kept = [outcome.num_kept for outcome in outcomes]
    engine.drafter.observe(rows, proposal, logits, kept)
    engine.length.observe(kept)
    for row, outcome in zip(rows, outcomes, strict=True):
        commit(row, outcome, engine.stops)
        row.statistics.draft_forwards += proposal.draft_forwards
    engine.drafter.commit(rows)
    engine.length.commit(rows)
    marks.append(time.perf_counter())
    phases = ("draft", "target", "acceptance", "rest")
    for phase, begin, end in zip(phases, marks, marks[1:], strict=False):
        charge(rows, phase, end - begin)
    if engine.plain_rounds is not None:
        engine.plain_rounds.note(rows, marks[-1] - marks[0])


def charge(rows: Sequence[Row], phase: str, seconds: float) -> None:
    """Share seconds of wall time equally among the rows that were there."""
    for row in rows:
        name = f"seconds_{phase}"
        setattr(row.statistics, name, getattr(row.statistics, name) + seconds / len(rows))


def _limit(row: Row, engine: Engine) -> int:
    """Proposed tokens that can matter to a row: the budget's, what the rule or the reference's
    counters must see behind them, and the context's.
    """
    # Counting changes no draw: a sampled row's last token would come from the proposal.
    counted = 0 if row.is_sampled else engine.num_counted
    limit = row.remaining - 1 + max(engine.lookahead, counted)
    room = engine.target.num_positions
    return limit if room is None else min(limit, room - len(row.ids))


def _verify(rows: Sequence[Row], proposal: Proposal, target: CausalModel) -> Tensor:
    """The target's logits at the last committed token and over the proposal.  [B, K+1, V]."""
    device = proposal.ids.device
    last = torch.tensor([row.ids[-1:] for row in rows], device=device)
    starts = [len(row.ids) - 1 for row in rows]
    ids = torch.cat([last, proposal.ids], dim=1)
    return target.extend(ids, torch.tensor(starts, device=device), max(starts) + ids.shape[1])


def _score(
    rows: Sequence[Row], logits: Tensor, proposal: Proposal, sampler: RoundSampler, engine: Engine
) -> Scores:
    """The target's view of the proposal, behind every row's processors."""
    guard = engine.guard
    if sampler.is_plain:
        processed = law = None
    else:
        processed = sampler.process(logits, [0] * len(logits), proposal.ids.tolist)
        law = sampler.law(processed, proposal)
    scores = Scores(
        logits=logits,
        ids=proposal.ids,
        lengths=proposal.lengths,
        protected=protected_in(rows, engine.protected),
        processed=processed,
        law=law,
        draft_probs=proposal.probs,
        locked=None if guard is None else guard.locked(rows, proposal),
        closing=None if guard is None else guard.closing_tokens,
    )
    if engine.stop_guard is None:
        return scores
    return scores.guarded(engine.stop_guard.concerned(rows, proposal, scores.choice[:, :-1]))


def _decide_chain(
    rows: Sequence[Row], logits: Tensor, proposal: Proposal, sampler: RoundSampler, engine: Engine
) -> Sequence[Outcome]:
    """What every row keeps of its chain."""
    scores = _score(rows, logits, proposal, sampler, engine)
    if engine.judge is not None:
        return engine.judge.decide(rows, proposal, scores)
    return _settle(rows, scores, engine.rule.accept(scores), engine)


def _decide_tree(
    rows: Sequence[Row], logits: Tensor, tree: TreeRound, sampler: RoundSampler, engine: Engine
) -> Sequence[Outcome]:
    """What every row keeps of its best branch; the cache of the target then holds that one."""
    assert engine.judge is None, "points cannot share trees"
    closing = None if engine.guard is None else engine.guard.closing_tokens
    protected = protected_in(rows, engine.protected)
    seen = tree.score(logits, sampler, protected, closing)
    scores, verdict, kept = tree.decide(rows, seen, engine.rule, engine.guard, engine.stop_guard)
    tree.keep(rows, engine.target, kept)
    return _settle(rows, scores, verdict, engine)


def _settle(
    rows: Sequence[Row], scores: Scores, verdict: Verdict, engine: Engine
) -> Sequence[Outcome]:
    """The rule's decisions, recorded and counted as asked."""
    outcomes = _to_host(rows, scores, verdict)
    if engine.record_rounds:
        record_round(rows, scores, outcomes, engine.rule)
    if engine.count_official:
        _count_official(rows, scores, verdict)
    return outcomes


def _to_host(rows: Sequence[Row], scores: Scores, verdict: Verdict) -> list[Outcome]:
    """The round's only wait for the device: everything decided, in one transfer."""
    kept = leading_true(verdict.accepted)  # [B]
    own = scores.choice_at(kept, verdict.weight)  # correction, or bonus where all are kept
    single = torch.stack([kept, own, scores.is_finite.long(), scores.lengths], dim=1)
    columns = [single, scores.ids, verdict.reason]
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
    """What is raised where the target's logits behind a row are not numbers."""
    return DecodingError(
        f"the target's logits are not finite behind token {len(row.ids)} of request {row.index}",
        fix="load the target in bfloat16 or float32, or check its weights",
    )


def commit(row: Row, outcome: Outcome, stops: StopRules) -> None:
    """Append what the row gained, cut at its end, and count."""
    counts = row.statistics
    num_loose = outcome.num_loose
    counts.matched += outcome.num_kept - num_loose
    counts.loose += num_loose
    counts.proposed += outcome.num_proposed
    if outcome.num_proposed == 0:
        counts.plain += 1
    else:
        row.round_lens.append((outcome.num_proposed, outcome.num_kept))
        counts.rounds += 1
        is_bonus = outcome.num_kept == outcome.num_proposed
        counts.bonuses += is_bonus
        counts.corrections += not is_bonus
        if not is_bonus:
            name = REFUSAL_COUNTERS[outcome.reasons[outcome.num_kept]]
            setattr(counts, name, getattr(counts, name) + 1)
    new = outcome.ids
    row.ids += new
    row.origins += outcome.origins
    num_new = len(new)
    ending = stops.end_of(row, num_new)
    num_trimmed = num_new - ending.num_kept
    if num_trimmed:
        del row.ids[-num_trimmed:], row.origins[-num_trimmed:]
    counts.trimmed += num_trimmed
    counts.emitted += ending.num_kept
    row.finish_reason = ending.reason
    if ending.reason is not None:
        counts.unfinished_thinking += stops.is_thinking(row, len(row.answer))


def _log(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
    """A line for every row."""
    for row, outcome in zip(rows, outcomes, strict=True):
        logger.info(
            "request %d, round %d: kept %d of %d proposed tokens, %d of them loose; ids %s",
            row.index,
            row.num_rounds,
            outcome.num_kept,
            outcome.num_proposed,
            outcome.num_loose,
            outcome.ids,
        )


def _count_official(rows: Sequence[Row], scores: Scores, verdict: Verdict) -> None:
    """The reference implementation's counters: over whole proposals, behind the first refusal too
    (docs/acceptance.md).
    """
    mismatches = (scores.in_proposal & ~scores.native).sum(-1)
    counts = torch.stack([mismatches, verdict.windowed.sum(-1), verdict.accepted.sum(-1)], 1)
    for row, (mismatched, windowed, accepted) in zip(rows, counts.tolist(), strict=True):
        row.statistics.official_mismatches += mismatched
        row.statistics.official_windowed += windowed
        row.statistics.official_accepted += accepted
