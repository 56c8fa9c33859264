"""`SpeculativeDecoder`, the public entry of the engine."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch

from fly.acceptance import Rule
from fly.config import FLyConfig
from fly.drafting import Drafter
from fly.engine.admission import (
    MAX_ROWS,
    BatchSize,
    RequestCheck,
    check_draft,
    named,
    share_ids,
    warn_of_idle_translation,
)
from fly.engine.batch import Result, Row, Scheduler
from fly.engine.deciding import Decider, RuleDecider
from fly.engine.model.base import CausalModel
from fly.engine.model.load import Loading, ServedModels, SharedModels, load_models
from fly.engine.model.packed import Packer
from fly.engine.model.step_choice import CompiledSteps
from fly.engine.processing import Defaults, ProcessingFactory
from fly.engine.request import Request
from fly.engine.statistics import Statistics
from fly.engine.step import charge, make_engine, run_round
from fly.errors import DecodingError, FLyWarning
from fly.settings import NO_DRAFTER

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Pause between two calls of a progress callback, in seconds: pooling the rows' counters is not
# free.
PROGRESS_PAUSE_S = 0.2


class SpeculativeDecoder:
    """Decodes many prompts at once with a draft and a target model.

    Rows of the batch accept different numbers of tokens and end at different times; a finished row
    makes room for the next prompt.  Answers do not depend on the batch (equal as
    benchmarks/README.md defines it; what makes exceptions is in docs/drafters.md).
    """

    def __init__(
        self,
        target: PreTrainedModel | CausalModel,
        draft: PreTrainedModel | CausalModel | None,
        tokenizer: PreTrainedTokenizerBase,
        config: FLyConfig,
        *,
        draft_tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int | str = 8,
        max_batch_size: int = MAX_ROWS,
        share_prefixes: bool = True,
        record_rounds: bool = False,
        decider: Decider | None = None,
        end_ids: Collection[int] = (),
        packer: Packer | None = None,
    ) -> None:
        """Combine loaded models.  Both are probed (fly/engine/model/probe.py), unless they have the
        engine's own interface; a pair that cannot speculate warns and decodes plainly.

        Args:
            target: the model whose text is wanted.
            draft: the model that proposes; None for drafters that need none.
            tokenizer: of the target, and of the draft unless that has its own.
            config: rule, drafter and their settings.
            draft_tokenizer: of the draft, which drafters that translate need (other_tokenizer);
                None: it is the target's.
            batch_size: rows decoded at once; "auto" and "auto:N" find how many (BatchSize).
            max_batch_size: bounds that search.
            share_prefixes: compute what prompts begin with together only once.
            record_rounds: keep every round's decisions in `Result.rounds`.
            decider: decides in place of the configuration's rule.
            end_ids: tokens that end an answer besides those of the target's generation config.
            packer: packs linear layers; one that others use too shares their packed weights.
                None: a new one, as `packed` in the configuration says.

        Raises:
            ConfigError: the batch size is none, a draft model or its tokenizer is missing, or that
                is another one and the drafter does not translate; or see derive_draft.
            ModelError: a model's attention implementation cannot be served, the target not at all,
                or no draft can be made of it.
        """
        self.batch_size = BatchSize(batch_size, max_batch_size)
        shares_ids = share_ids(tokenizer, draft_tokenizer)
        given = {"has_draft": draft is not None, "has_tokenizer": draft_tokenizer is not None}
        setup = config.setup
        check_draft(setup.drafter, **given, shares_ids=shares_ids)
        warn_of_idle_translation(setup.drafter, shares_ids)
        loading = Loading(packer or Packer(setup.packed), share_prefixes, shares_ids)
        needs_draft = setup.traits.needs_model
        pair = load_models(target, draft if needs_draft else None, setup.drafter.name, loading)
        self._models = SharedModels(pair, tokenizer, needs_draft, loading, draft_tokenizer)
        self._models.end_ids = frozenset(end_ids)
        self._set_up(self._models.pair_for(setup.drafter), config, record_rounds, decider)

    def with_config(
        self,
        config: FLyConfig,
        *,
        batch_size: int | str | None = None,
        record_rounds: bool | None = None,
    ) -> SpeculativeDecoder:
        """Another decoder over the same models and the same caches; nothing is probed again.

        The two take turns: when one is given requests, the other must have returned all its
        results.  What the models cannot do is decoded plainly, without another warning.

        Args:
            config: rule, drafter and their settings.
            batch_size: rows decoded at once; None asks for what this one was asked for, and
                searches anew where that is a search.
            record_rounds: None: as this one.

        Raises:
            ConfigError: the batch size is none, or this decoder was made without the draft model
                or tokenizer that `config` needs.
        """
        models = self._models
        check_draft(
            config.setup.drafter,
            has_draft=models.has_draft,
            has_tokenizer=models.draft_tokenizer is not None,
            shares_ids=models.loading.shares_ids,
        )
        other = copy(self)
        asked = self.batch_size.wanted if batch_size is None else batch_size
        other.batch_size = BatchSize(asked, self.batch_size.max_wanted)
        pair = models.pair_for(config.setup.drafter)
        is_recording = self._engine.record_rounds if record_rounds is None else record_rounds
        other._set_up(pair, config, is_recording)
        return other

    def _set_up(
        self,
        pair: ServedModels,
        config: FLyConfig,
        record_rounds: bool,
        decider: Decider | None = None,
    ) -> None:
        """All that depends on the configuration."""
        self.config = config
        pair = pair.for_traits(config.setup.traits)
        self.served = pair.describe()
        models, target = self._models, pair.target
        tokenizer, ends = models.tokenizer, models.end_ids
        self.pair, self._target = pair, target
        tokenizers = tokenizer, models.draft_tokenizer
        self._engine = make_engine(config.setup, pair, tokenizers, record_rounds, decider, ends)
        self._scheduler = Scheduler([])  # of the last call
        self._processing = ProcessingFactory(pair.source, target.vocab_size, target.device)
        self._check = RequestCheck(tokenizer, target.vocab_size, target.num_positions, config.setup)

    @property
    def rule(self) -> Rule:
        """The acceptance rule."""
        decider = self._engine.decider
        assert isinstance(decider, RuleDecider)
        return decider.rule

    @property
    def drafter(self) -> Drafter:
        """Who proposes."""
        return self._engine.drafter

    def report(self) -> dict[str, Any]:
        """What the drafter learned and which draft lengths were chosen, fit for JSON."""
        return {**self.drafter.report(), **self._engine.length.report()}

    @property
    def packed(self) -> dict[str, Any]:
        """Linear layers that run packed, by the model's role, fit for JSON."""
        return dict(self._models.loading.packer.summary)

    @property
    def is_lossless(self) -> bool:
        """Whether the text is the target's own (sampled: its distribution), with these models."""
        return self.served["drafter"] == NO_DRAFTER or self.rule.is_lossless

    @property
    def compiled(self) -> CompiledSteps:
        """Compiled forwards, and by role why there are none."""
        return self._models.compiled

    @property
    def max_context(self) -> int | None:
        """Prompt and new tokens that fit together; None where the target has no limit."""
        return self._target.num_positions

    @property
    def vocab_size(self) -> int:
        """The target's."""
        return self._target.vocab_size

    @property
    def defaults(self) -> Defaults:
        """Ends of answers by the target's generation config."""
        return self._processing.defaults

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        max_new_tokens: int | None = None,
        stop: Collection[str] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        **generation: Any,
    ) -> list[Result]:
        """Continue every prompt; results in the order of the prompts.

        Args:
            prompts: texts, encoded as the tokenizer does by default, or lists of ids.
            max_new_tokens: budget of each answer, in tokens; `total_gen_tok` bounds it.  None: the
                generation config's, or 256.
            stop: strings that end an answer; they are cut off.  None: the generation config's.
            temperature: 0 decodes greedily; above, tokens are drawn.
            seed: of the draws; the n-th prompt gets `seed + n`.
            generation: further arguments of transformers' `generate`: top_k, top_p, min_p,
                repetition_penalty, bad_words_ids, eos_token_id ...  What is not given comes from
                the target's generation config.

        Raises:
            RequestError: a prompt or an argument is impossible; nothing was decoded.
        """
        ends = self.defaults
        budget = ends.max_new_tokens if max_new_tokens is None else max_new_tokens
        asked = Request((), budget, (), temperature, seed, generation)
        stops = ends.stop_strings if stop is None else stop
        requests = self._check.prompted(prompts, stops, asked)
        results = dict(self.decode(requests))
        return [results[index] for index in range(len(requests))]

    def decode(
        self,
        requests: Sequence[Request],
        on_round: Callable[[Statistics], None] | None = None,
        *,
        begun: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Decode the requests; yields (index, result) as each finishes.

        Args:
            requests: what is asked; all are checked before the first is decoded.
            begun: per request the ids that its answer begins with, fewer than its budget and
                without an end: decoded before, they are neither decoded again nor counted.
            on_round: called now and then with the pooled statistics so far, unfinished rows
                included.

        Raises:
            RequestError: a request is impossible.
            DecodingError: the target returned logits that are not finite, or the decoder was given
                other requests before all results were fetched.
        """
        rows = []
        for index, asked in enumerate(requests):
            request, budget = self._check.read(index, asked)
            processing = self._processing.make(request, budget, named(index, request))
            row = Row(index, request, budget, processing)
            row.ids += begun[index] if begun else ()
            rows.append(row)
        return self._run(rows, on_round)

    def _run(
        self, rows: list[Row], on_round: Callable[[Statistics], None] | None
    ) -> Iterator[tuple[int, Result]]:
        self._forget(self._scheduler.rows)  # of a call that was given up
        scheduler = self._scheduler = self._models.owner = Scheduler(rows)
        self.batch_size.start(len(rows))
        self._models.make_ready(self.pair, self.config.setup, rows, self.batch_size.rows)
        done = Statistics()
        told = time.perf_counter()
        while scheduler.has_work:
            self._check_turn(scheduler)
            finished: list[Row] | None = None
            try:
                with torch.inference_mode():
                    self._admit(scheduler)
                    self._models.widest = max(self._models.widest, len(scheduler.rows))
                    begin = time.perf_counter()
                    run_round(scheduler.rows, self._engine)
            except torch.OutOfMemoryError as error:
                self._check_width(scheduler, error)
            except DecodingError:
                # NaN keys would shine through the masks of later requests.
                self._models.clear()
                raise
            else:
                seconds = time.perf_counter() - begin
                self.batch_size.note(len(scheduler.rows), scheduler.num_waiting, seconds)
                finished = self._retire(scheduler)
            if finished is None:
                # Not in the handler, where the traceback still holds on to tensors.
                finished = self._shrink(scheduler)
            if on_round is not None:
                done = sum((row.statistics for row in finished), done)
                if time.perf_counter() - told >= PROGRESS_PAUSE_S or not scheduler.has_work:
                    on_round(sum((row.statistics for row in scheduler.rows), done))
                    told = time.perf_counter()
            for row in finished:
                yield row.index, self._result(row)
        self.drafter.finish()

    def _check_turn(self, scheduler: Scheduler) -> None:
        """Raise where another call has begun over the same caches."""
        if self._models.owner is not scheduler:
            raise DecodingError(
                "another call took over this decoder's rows before all results were fetched",
                fix="fetch all results of one call first, or make a second SpeculativeDecoder",
            )

    def _check_width(self, scheduler: Scheduler, error: torch.OutOfMemoryError) -> None:
        """Raise where the memory does not do for a single row, too."""
        if max(self._models.widest, len(scheduler.rows)) == 1:
            self._models.clear()  # shorter requests may fit
            raise DecodingError(
                f"out of memory with a single row, request {scheduler.rows[0].index} of "
                f"{len(scheduler.rows[0].ids)} tokens",
                fix="use a smaller draft, a shorter context, or more accelerators",
            ) from error

    @torch.inference_mode()
    def _shrink(self, scheduler: Scheduler) -> list[Row]:
        """Half as many rows from now on, unless the caches were wider than these rows: then caches
        of their own size may do.  What the rows have decoded stays; those that have ended are
        returned.
        """
        num_rows = len(scheduler.rows)
        if num_rows >= self._models.widest:
            self.batch_size.halve(num_rows)
            what = f"going on with at most {self.batch_size.rows}"
        else:
            what = f"making caches anew that had {self._models.widest}"
        warnings.warn(f"out of memory with {num_rows} rows; {what}", FLyWarning, stacklevel=2)
        self._forget(scheduler.rows)
        finished = scheduler.requeue()
        self._models.clear()
        return finished

    def _forget(self, rows: Sequence[Row]) -> None:
        """The drafter need not keep anything of these rows."""
        for row in rows:
            self.drafter.forget(row.index)

    def release(self) -> None:
        """Give up what both caches hold, and their memory.  The next call makes them anew; one
        whose results were not all fetched cannot go on."""
        self._models.owner = None
        self._models.clear()

    def _admit(self, scheduler: Scheduler) -> None:
        """Fill free rows and prefill them.  The prompt's last token is left to open the first
        round.
        """
        begin = time.perf_counter()
        first = scheduler.admit(self.batch_size.rows)
        new = scheduler.rows[first:]
        if new:
            self.pair.reserve(len(scheduler.rows), scheduler.longest)
            self._target.prefill([row.ids[:-1] for row in new], first)
            if not self._engine.length.is_idle:
                self.drafter.prefill(scheduler.rows)
            charge(new, seconds_prefill=time.perf_counter() - begin)

    @torch.inference_mode()
    def _retire(self, scheduler: Scheduler) -> list[Row]:
        """Take out finished rows and close their gaps in the target's cache."""
        begin = time.perf_counter()
        present = list(scheduler.rows)
        finished, moves = scheduler.retire()
        for source, destination in moves:
            self._target.move(source, destination, len(scheduler.rows[destination].ids))
        self._forget(finished)
        charge(present, seconds_rest=time.perf_counter() - begin)
        return finished

    def _result(self, row: Row) -> Result:
        assert row.finish_reason is not None
        return Result(
            token_ids=row.answer,
            text=self._engine.stops.text(row.answer, row.request),
            finish_reason=row.finish_reason,
            statistics=row.statistics,
            rounds=row.rounds if self._engine.record_rounds else None,
            key=row.request.key,
            origins="".join(row.origins),
            round_lens=row.round_lens,
        )
