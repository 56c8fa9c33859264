"""One round: propose, verify, accept, commit.  Every row gains 1 to K+1 tokens; the target's cache
then holds all of a row's tokens but the last, and nothing is ever cropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fly.decoding.deciding import ChainRound, Decider
from fly.decoding.guards import Guards
from fly.decoding.plain_rounds import PlainRounds
from fly.decoding.protocol import CausalModel
from fly.decoding.rows import Outcome, Row
from fly.decoding.sampling import RoundSampler
from fly.decoding.stopping import StopRules
from fly.decoding.trees import TreeRound
from fly.drafting import Drafter
from fly.drafting.pacing import DraftLength

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundContext:
    """What a round needs besides the rows."""

    target: CausalModel
    drafter: Drafter
    length: DraftLength
    decider: Decider
    stops: StopRules
    guards: Guards
    record_rounds: bool
    is_verbose: bool = False
    num_counted: int = 0  # proposed tokens that count though they may not matter (see assembling)
    plain_rounds: PlainRounds | None = None  # in between, timed; None: there are none


def run_round(rows: Sequence[Row], engine: RoundContext) -> None:
    """Advance all rows; a row that reached its end gets its finish reason.

    Raises:
        DecodingError: the target's logits are not finite.
    """
    marks = [time.perf_counter()]
    keeps_probs = engine.decider.needs_draft_probs
    sampler = RoundSampler(rows, engine.target.vocab_size, keeps_probs=keeps_probs)
    limits = [_limit(row, engine) for row in rows]
    if engine.plain_rounds is not None:
        limits = engine.plain_rounds.limits(rows, limits)
    proposal = engine.drafter.propose(rows, engine.length.limits(rows, limits), sampler)
    engine.length.proposed(proposal)
    proposal = proposal.to(engine.target.device)
    marks.append(time.perf_counter())
    proposed = TreeRound.of(proposal) or ChainRound(proposal)
    logits = proposed.verify(rows, engine.target)
    marks.append(time.perf_counter())
    scores = proposed.score(rows, logits, sampler, engine.guards)
    outcomes = engine.decider.decide(rows, proposed, scores)
    proposed.keep(rows, engine.target)
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
    draft, target, acceptance, rest = (end - begin for begin, end in pairwise(marks))
    charge(
        rows,
        seconds_draft=draft,
        seconds_target=target,
        seconds_acceptance=acceptance,
        seconds_rest=rest,
    )
    if engine.plain_rounds is not None:
        engine.plain_rounds.note(rows, marks[-1] - marks[0])


def charge(rows: Sequence[Row], **seconds: float) -> None:
    """Share wall time, by its field in Statistics, equally among the rows that were there."""
    for row in rows:
        counts = row.statistics
        for name, spent in seconds.items():
            setattr(counts, name, getattr(counts, name) + spent / len(rows))


def _limit(row: Row, engine: RoundContext) -> int:
    """Proposed tokens that can matter to a row: the budget's, what the rule or the reference's
    counters must see behind them, and the context's.
    """
    # Counting changes no draw: a sampled row's last token would come from the proposal.
    counted = 0 if row.is_sampled else engine.num_counted
    limit = row.remaining - 1 + max(engine.decider.required_followers, counted)
    room = engine.target.num_positions
    return limit if room is None else min(limit, room - len(row.ids))


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
            counts.refuse(outcome.reasons[outcome.num_kept])
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
