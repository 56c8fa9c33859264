"""From a configuration and served models to what a round needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fly.decoding.deciding import Decider, RuleDecider
from fly.decoding.guards import Guards, Places, protected_tokens
from fly.decoding.plain_rounds import PlainRounds
from fly.decoding.round import RoundContext
from fly.decoding.rows import Row
from fly.decoding.serving import ServedModels
from fly.decoding.stop_guard import StopGuard
from fly.decoding.stopping import StopRules, eos_ids
from fly.drafting import Drafter, DrafterSpec, End, Parts, drafters
from fly.drafting.pacing import AdaptiveLength, DraftLength
from fly.drafting.protocol import CommittedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import Setup
    from fly.config.setup import GuardSettings
    from fly.decoding.protocol import CausalModel


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
    end = End(stops.eos_ids, max(decider.required_followers, counted))
    length = _length(setup, end)
    parts = Parts(
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


def make_drafter(spec: DrafterSpec, parts: Parts) -> Drafter:
    """The drafter of a spec."""
    return drafters.get(spec.name).from_config(spec, parts)


def _length(setup: Setup, end: End) -> DraftLength:
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
    can be emitted: it drafts all K behind an end token and the budget.  0 where nothing is
    counted, or what is drafted or accepted is not its own; other rules' and drafters' texts might
    depend on it.
    """
    is_its_own = setup.traits.is_official and setup.rule.is_official
    is_its_own = is_its_own and setup.draft_length != "adaptive"
    return setup.drafter.k if setup.counts_official and is_its_own else 0


def _samples(rows: Sequence[CommittedRow]) -> bool:
    """Whether one of them draws its tokens: its seed's text depends on how many it is offered."""
    return any(isinstance(row, Row) and row.is_sampled for row in rows)
