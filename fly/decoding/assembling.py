"""From a configuration and served models to what a round needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fly.acceptance import rules
from fly.decoding.guards import Places, protected_tokens
from fly.decoding.plain_rounds import PlainRounds
from fly.decoding.round import Engine, Judge
from fly.decoding.rows import Row
from fly.decoding.serving import NO_DRAFTER, Pair
from fly.decoding.stop_guard import StopGuard
from fly.decoding.stopping import StopRules, eos_ids
from fly.drafting import End, Parts, drafters
from fly.drafting.pacing import AdaptiveLength, DraftLength
from fly.drafting.protocol import CommittedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig


def make_engine(
    config: FLyConfig,
    pair: Pair,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None],
    record_rounds: bool,
    judge: Judge | None,
    end_ids: Collection[int] = (),
) -> Engine:
    """Rule, drafter, guards and what ends an answer.

    Args:
        config: their settings.
        pair: the served models.
        tokenizers: the target's, and the draft's where it has its own.
        record_rounds: as in SpeculativeDecoder.
        judge: as in SpeculativeDecoder.
        end_ids: as in SpeculativeDecoder.
    """
    tokenizer, draft_tokenizer = tokenizers
    target = pair.target
    if pair.drafter != config.drafter_name:  # the models cannot do what was asked for
        config = config.model_copy(update={"drafter": pair.drafter, "drafter_settings": {}})
    stops = StopRules(tokenizer, eos_ids(pair.source, end_ids))
    rule = rules.get(config.acceptance_name).from_config(config)
    lookahead = rule.lookahead if judge is None else judge.lookahead
    counted = _counted(config) if judge is None else 0
    end = End(stops.eos_ids, max(lookahead, counted))
    length = _length(config, end)
    parts = Parts(
        device=target.device,
        vocab_size=target.vocab_size,
        end=end,
        model=pair.draft,
        tokenizer=tokenizer,
        draft_tokenizer=draft_tokenizer,
        reads_trees=pair.can_verify_trees,
        pace=length.pace,
    )
    protected = None
    if config.protect_special_tokens:
        protected = protected_tokens(tokenizer, stops.eos_ids, target.vocab_size, target.device)
    guards_stops = config.protect_special_tokens and config.protect_stop_strings
    return Engine(
        target=target,
        drafter=drafters.get(config.drafter_name).from_config(config, parts),
        length=length,
        rule=rule,
        stops=stops,
        protected=protected,
        record_rounds=record_rounds,
        count_official=config.enable_statistics,
        num_counted=counted,
        is_verbose=config.verbose,
        judge=judge,
        # Without a lookahead nothing is ever loosened.
        stop_guard=StopGuard(stops) if guards_stops and lookahead else None,
        guard=Places.from_config(config, tokenizer, target.vocab_size, target.device),
        plain_rounds=_plain_rounds(config, is_judged=judge is not None),
    )


def _length(config: FLyConfig, end: End) -> DraftLength:
    """How long proposals are."""
    if config.drafter_name == NO_DRAFTER or config.draft_length_name != "adaptive":
        return DraftLength()
    tail = max(0, end.lookahead - 1)
    is_asked = config.drafter_traits.asks_pace
    fixed_for = None if config.draft_length == "adaptive" else _samples
    return AdaptiveLength(config.spd_k, tail, end.ids, is_asked=is_asked, fixed_for=fixed_for)


def _plain_rounds(config: FLyConfig, *, is_judged: bool) -> PlainRounds | None:
    """Plain rounds that are timed in between, where there are any."""
    if config.drafter_name == NO_DRAFTER:
        return None
    # The reference implementation, whose counters may be asked for, has no such rounds.
    is_timed = not (is_judged or config.is_loose or config.enable_statistics)
    is_paced = config.draft_length_name == "adaptive"
    is_named = config.draft_length == "adaptive"
    return PlainRounds(spares_sampled=not is_named) if is_paced or is_timed else None


def _counted(config: FLyConfig) -> int:
    """Proposed tokens that the reference implementation's counters look at even where none of them
    can be emitted: it drafts all K behind an end token and the budget.  0 where nothing is
    counted, or what is drafted or accepted is not its own; other rules' and drafters' texts might
    depend on it.
    """
    is_its_own = config.drafter_name in ("model", "multilevel") and (
        config.acceptance_name in ("fly", "native") and config.draft_length_name != "adaptive"
    )
    return config.spd_k if config.enable_statistics and is_its_own else 0


def _samples(rows: Sequence[CommittedRow]) -> bool:
    """Whether one of them draws its tokens: its seed's text depends on how many it is offered."""
    return any(isinstance(row, Row) and row.is_sampled for row in rows)
