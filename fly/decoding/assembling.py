"""From a configuration and served models to what a round needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fly.acceptance import rules
from fly.decoding.guards import Places, protected_tokens
from fly.decoding.plain_rounds import PlainRounds
from fly.decoding.round import Engine, Judge
from fly.decoding.rows import Row
from fly.decoding.serving import NO_DRAFTER, ServedModels
from fly.decoding.stop_guard import StopGuard
from fly.decoding.stopping import StopRules, eos_ids
from fly.drafting import Drafter, End, Parts, drafters
from fly.drafting.pacing import PacedDrafter
from fly.drafting.protocol import CommittedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig


def make_engine(
    config: FLyConfig,
    pair: ServedModels,
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
    parts = Parts(
        device=target.device,
        vocab_size=target.vocab_size,
        end=End(stops.eos_ids, max(lookahead, counted)),
        model=pair.draft,
        tokenizer=tokenizer,
        draft_tokenizer=draft_tokenizer,
        reads_trees=pair.can_verify_trees,
    )
    protected = None
    if config.protect_special_tokens:
        protected = protected_tokens(tokenizer, stops.eos_ids, target.vocab_size, target.device)
    guards_stops = config.protect_special_tokens and config.protect_stop_strings
    drafter, plain_rounds = _pace(config, parts, is_judged=judge is not None)
    return Engine(
        target=target,
        drafter=drafter,
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
        plain_rounds=plain_rounds,
    )


def _pace(
    config: FLyConfig, parts: Parts, *, is_judged: bool
) -> tuple[Drafter, PlainRounds | None]:
    """The drafter at its length, and whether plain rounds are timed in between."""
    drafter = drafters.get(config.drafter_name).from_config(config, parts)
    if config.drafter_name == NO_DRAFTER:
        return drafter, None
    is_asked = config.draft_length == "adaptive"
    is_paced = config.draft_length_name == "adaptive"
    if is_paced:
        tail = max(0, parts.end.lookahead - 1)
        fixed_for = None if is_asked else _samples
        drafter = PacedDrafter(drafter, config.spd_k, tail, parts.end.ids, fixed_for=fixed_for)
    # The reference implementation, whose counters may be asked for, has no such rounds.
    is_timed = not (is_judged or config.is_loose or config.enable_statistics)
    return drafter, PlainRounds(spares_sampled=not is_asked) if is_paced or is_timed else None


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
    """Whether one of them draws its tokens: its seed's text hangs on how many it is offered."""
    return any(isinstance(row, Row) and row.is_sampled for row in rows)
