"""One decoding round (propose, verify, decide, commit).  Every row gains 1 to K+1 tokens; the
target's cache then holds all of a row's tokens but the last, and nothing is ever cropped."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from fly.drafting import Drafter, DrafterContext, DrafterSpec, StopInfo, drafters
from fly.drafting.adaptive.length import AdaptiveLength, DraftLength
from fly.drafting.base import CommittedRow
from fly.drafting.uploads import Uploads
from fly.engine.batch import Outcome, Row
from fly.engine.deciding import ChainRound, Decider, RuleDecider
from fly.engine.guards import Guards, Places, StopGuard, protected_tokens
from fly.engine.model.base import CausalModel
from fly.engine.model.load import ServedModels
from fly.engine.plain_rounds import PlainRounds
from fly.engine.sampling import RoundSampler
from fly.engine.stopping import StopRules, eos_ids
from fly.engine.tree import TreeRound

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import Setup
    from fly.config.setup import GuardSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundContext:
    """Everything that a round needs besides the rows."""

    target: CausalModel
    drafter: Drafter
    length: DraftLength
    decider: Decider
    stops: StopRules
    guards: Guards
    record_rounds: bool
    uploads: Uploads = field(default_factory=Uploads)  # of the round
    is_verbose: bool = False
    num_counted: int = 0  # proposed tokens that count though they may not matter (_counted)
    plain_rounds: PlainRounds | None = None  # in between, timed; None: there are none


def run_round(rows: Sequence[Row], engine: RoundContext) -> None:
    """Advance all rows; a row that reached its end gets its finish reason.

    Raises:
        DecodingError: the target's logits are not finite.
    """
    marks = [time.perf_counter()]
    device, uploads = engine.target.device, engine.uploads
    uploads.begin()
    committed = uploads.add([[row.ids[-1], len(row.ids) - 1] for row in rows], device)
    keeps_probs = engine.decider.needs_draft_probs
    sampler = RoundSampler(rows, engine.target.vocab_size, keeps_probs=keeps_probs)
    sampler.promise(device, uploads)
    limits = [_limit(row, engine) for row in rows]
    if engine.plain_rounds is not None:
        limits = engine.plain_rounds.limits(rows, limits)
    proposal = engine.drafter.propose(rows, engine.length.limits(rows, limits), sampler.choose)
    engine.length.proposed(proposal)
    kind = TreeRound if proposal.is_tree else ChainRound
    proposed = kind.of(proposal, committed, uploads)
    proposal = proposed.proposal
    marks.append(time.perf_counter())
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
    counters must see after them, and the context's.
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


def make_engine(
    setup: Setup,
    pair: ServedModels,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None],
    record_rounds: bool,
    decider: Decider | None,
    end_ids: Collection[int] = (),
) -> RoundContext:
    """Rule, drafter, guards and what ends an answer.

    Args:
        setup: what decodes.
        pair: the served models.
        tokenizers: the target's, and the draft's where it has its own.
        record_rounds: as in SpeculativeDecoder.
        decider: as in SpeculativeDecoder.
        end_ids: as in SpeculativeDecoder.
    """
    tokenizer, draft_tokenizer = tokenizers
    target = pair.target
    if pair.drafter != setup.drafter.name:  # the models cannot do what was asked for
        setup = setup.with_drafter(pair.drafter)
    stops = StopRules(tokenizer, eos_ids(pair.source, end_ids))
    is_judged = decider is not None
    counted = 0 if is_judged else _counted(setup)
    decider = decider or RuleDecider(setup.rule, record_rounds, setup.counts_official)
    end = StopInfo(stops.eos_ids, max(decider.required_followers, counted))
    length = _length(setup, end)
    uploads = Uploads()
    parts = DrafterContext(
        device=target.device,
        vocab_size=target.vocab_size,
        end=end,
        model=pair.draft,
        tokenizer=tokenizer,
        draft_tokenizer=draft_tokenizer,
        reads_trees=pair.can_verify_trees,
        is_loose=setup.is_loose,
        make=make_drafter,
        pace=length.pace,
        uploads=uploads,
    )
    return RoundContext(
        target=target,
        drafter=make_drafter(setup.drafter, parts),
        length=length,
        decider=decider,
        stops=stops,
        guards=_guards(
            setup.guards, tokenizer, stops, target, may_loosen=decider.required_followers > 0
        ),
        record_rounds=record_rounds,
        uploads=uploads,
        num_counted=counted,
        is_verbose=setup.is_verbose,
        plain_rounds=_plain_rounds(setup, is_judged=is_judged),
    )


def _guards(
    asked: GuardSettings,
    tokenizer: PreTrainedTokenizerBase,
    stops: StopRules,
    target: CausalModel,
    *,
    may_loosen: bool,
) -> Guards:
    """Tokens and places where nothing is loosened."""
    size, device = target.vocab_size, target.device
    is_protecting = asked.protect_special_tokens
    protected = protected_tokens(tokenizer, stops.eos_ids, size, device) if is_protecting else None
    guards_stops = is_protecting and asked.protect_stop_strings and may_loosen
    places = Places.from_guards(asked, tokenizer, size, device)
    return Guards(protected, places, StopGuard(stops) if guards_stops else None)


def make_drafter(spec: DrafterSpec, parts: DrafterContext) -> Drafter:
    """The drafter of a spec."""
    return drafters.get(spec.name).from_config(spec, parts)


def _length(setup: Setup, end: StopInfo) -> DraftLength:
    """How long proposals are."""
    if setup.is_plain or setup.draft_length != "adaptive":
        return DraftLength()
    tail = max(0, end.lookahead - 1)
    fixed_for = None if setup.asked_length == "adaptive" else _samples
    asks = setup.traits.asks_pace
    return AdaptiveLength(setup.drafter.k, tail, end.ids, is_asked=asks, fixed_for=fixed_for)


def _plain_rounds(setup: Setup, *, is_judged: bool) -> PlainRounds | None:
    """Plain rounds that are timed in between, where there are any."""
    if setup.is_plain:
        return None
    # The reference implementation, whose counters may be asked for, has no such rounds.
    is_timed = not (is_judged or setup.is_loose or setup.counts_official)
    is_paced = setup.draft_length == "adaptive"
    is_named = setup.asked_length == "adaptive"
    return PlainRounds(spares_sampled=not is_named) if is_paced or is_timed else None


def _counted(setup: Setup) -> int:
    """Proposed tokens that the reference implementation's counters look at even where none of them
    can be emitted: it drafts all K after an end token and the budget.  0 where nothing is
    counted, or what is drafted or accepted is not its own; other rules' and drafters' texts might
    depend on it.
    """
    is_its_own = setup.traits.is_official and setup.rule.is_official
    is_its_own = is_its_own and setup.draft_length != "adaptive"
    return setup.drafter.k if setup.counts_official and is_its_own else 0


def _samples(rows: Sequence[CommittedRow]) -> bool:
    """Whether one of them draws its tokens: its seed's text depends on how many it is offered."""
    return any(isinstance(row, Row) and row.is_sampled for row in rows)
