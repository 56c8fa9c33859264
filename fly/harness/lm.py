"""`FLyLM`, lm-eval's HFLM with speculative `generate_until`.  Everything but generation is HFLM's
own and the target's: log-likelihoods, chat template, labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fly.engine import Result, SpeculativeDecoder
from fly.engine.model.load import check_decoder_only
from fly.errors import JournalError
from fly.harness import loading as pair
from fly.harness import processes
from fly.harness.answers import Answers
from fly.harness.arguments import ModelArguments
from fly.harness.fingerprint import digest, text_settings, versions
from fly.harness.journal import Journal
from fly.harness.packed_scores import PackedHFLM
from fly.harness.patches import JournalHook, keep_apart
from fly.harness.placement import Weights, draft_devices, explaining_room, weights_planned
from fly.harness.progress import DecodingProgress
from fly.harness.records import RequestRecord, remarks, summarise, to_json
from fly.harness.requests import RequestReader
from fly.harness.tracing import AnswerWriter, method_entry, method_name

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def default_device() -> str:
    """Where the target goes by default."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class FLyLM(PackedHFLM):
    """A target evaluated with loosened speculative decoding.

    `FLyLM(pretrained=DRAFT, config_path=FILE)`: every key of the configuration may also be given as
    an argument and wins over the file; all arguments of HFLM mean the target.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config_path: str | None = None,
        *,
        chat_template_name: str | None = None,
        **arguments: Any,
    ) -> None:
        """Read the configuration, then load tokenizers, target and draft, in this order.

        Args:
            pretrained: the draft, as in the official command; goes before the file's
                `draft_model_path`.
            config_path: a JSON file; None takes all settings from `arguments`.
            chat_template_name: which of the tokenizer's templates is applied; None: its default.
                lm-eval does not pass on the name that --apply_chat_template is given.

        Raises:
            ConfigError: a setting is wrong; nothing has been loaded.  Or the tokenizer has no such
                template; no weights have been loaded.
            ModelError: a model cannot be opened or is no decoder, or the tokenizers differ; no
                weights have been loaded.
        """
        named = {"pretrained": pretrained, "config_path": config_path}
        given = {key: value for key, value in named.items() if value is not None}
        split = ModelArguments.split(given | arguments)
        self.fly_config = split.config
        self._target_options = split.target
        self._template_name = chat_template_name
        self._records: list[RequestRecord] = []
        self._records_are_told = False  # by `get_model_info`, once an evaluation
        self._trace_path: Path | None = None
        self.trace_error: JournalError | None = None  # why a trace is not whole
        self._rows_asked: int | str = split.target.get("batch_size", 1)
        # HFLM's own default is "cuda", whether there is one or not.
        place = {} if split.target.get("device") else {"device": default_device()}
        options = split.target | place
        processes.join_on_cpu(options)
        self.draft_tokenizer: PreTrainedTokenizerBase | None = None  # set while HFLM loads
        with explaining_room("target_model_path", split.target_path, self._weights_planned):
            super().__init__(pretrained=split.target_path, **options)
        # HFLM leaves a CPU's processes apart and takes the rank on this machine for the rank.
        if hasattr(self, "accelerator"):
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes
        if chat_template_name is not None:
            template = pair.find_template(self.tokenizer, chat_template_name)
            own: dict[str, Any] = vars(self)["chat_template_args"]
            self.chat_template_args: dict[str, Any] = own | {"chat_template": template}
        self.draft = self._load_draft()

    @cached_property
    def decoder(self) -> SpeculativeDecoder:
        """The engine, made when the first request comes: a task without generation does not need
        it."""
        return SpeculativeDecoder(
            self.model,
            self.draft,
            self.tokenizer,
            self.fly_config,
            draft_tokenizer=self.draft_tokenizer,
            batch_size=self._rows_asked,
            record_rounds=self._trace_path is not None,
            end_ids=self.end_ids,
            packer=self.packer,
            **({"max_batch_size": self.max_batch_size} if self.max_batch_size else {}),
        )

    @property
    def end_ids(self) -> frozenset[int]:
        """What ends an answer besides the generation config's end tokens: the tokenizer's, whose
        text HFLM adds to the stop strings."""
        end = self.tokenizer.eos_token_id
        return frozenset() if end is None else frozenset([end])

    @property
    def num_rows(self) -> int | str:
        """Rows decoded at once; what was asked for until the first request comes."""
        made = vars(self).get("decoder")
        return made.batch_size.rows if made else self._rows_asked

    def trace_to(self, path: Path | None) -> None:
        """From now on, append every decoded answer with its rounds to this file, as soon as it is
        finished (fly/harness/tracing.py); None stops.  Every process needs a file of its own.

        An answer that is resumed from a journal is not in the file: only its text is known.
        """
        self._trace_path, self.trace_error = path, None
        made = vars(self).get("decoder")
        if made is not None:
            self.decoder = made.with_config(self.fly_config, record_rounds=path is not None)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode what the journal does not have; answers come in the order asked, each is in the
        journal as soon as it is there.

        The records are of the last call, of which lm-eval makes one an evaluation; so a model may
        be evaluated again, or called again after it was interrupted.

        Raises:
            RequestError: a request cannot be decoded as asked; none has been started.
            JournalError: the journal is damaged, in use, or cannot be written; or the trace cannot
                be begun.  One that cannot be gone on with is left (`trace_error`).
        """
        self._records, self._records_are_told = [], False
        with getattr(self.cache_hook, "journal", None) or nullcontext() as journal:
            if journal is not None:
                self.resume_packed(journal.packed)
            answers = Answers(requests, journal, self.fly_config.temperature)
            self._records += answers.resumed
            if self._trace_path is not None and answers.resumed:
                logger.warning(
                    "%d answers were finished before: they are not in the trace",
                    len(answers.resumed),
                )
            if not answers.pending:
                return answers.texts()
            pending = [requests[place] for place in answers.pending]
            reader = self.reader()
            prepared = reader.read(pending, answers.seeds)
            is_quiet = disable_tqdm or self.rank != 0
            with (
                DecodingProgress(len(pending), disable=is_quiet) as progress,
                self._tracing() as writer,
                self.precision(),
            ):
                asked = [one.request for one in prepared]
                self.decoder.compiled.on_start = progress.say
                for index, result in self.decoder.decode(asked, progress.on_round):
                    text = reader.answer(prepared[index], result)
                    record = answers.put(answers.pending[index], text, result)
                    self._records.append(record)
                    if writer is not None:
                        prompt = pending[index].args[0]
                        writer = self._write(writer, record, prompt, text, result)
                    progress.advance()
        return answers.texts()

    def _write(
        self, writer: AnswerWriter, record: RequestRecord, prompt: str, text: str, result: Result
    ) -> AnswerWriter | None:
        """Add to the trace; None where that fails, which is no reason to end the run."""
        try:
            writer.write(method_name(self.decoder), record, prompt, text, result)
        except JournalError as error:
            logger.error("%s; decoding goes on, without the rest of the trace", error.message)
            self.trace_error = error
            return None
        return writer

    def _tracing(self) -> AbstractContextManager[AnswerWriter | None]:
        """The trace's file, if one is asked for."""
        if self._trace_path is None:
            return nullcontext()
        return AnswerWriter(
            self._trace_path,
            self.tokenizer,
            self.fingerprint(),
            self.text_settings,
            {method_name(self.decoder): method_entry(self.decoder)},
        )

    def precision(self) -> AbstractContextManager[Any]:
        """What the models compute in under lm-eval's `mixed_precision_dtype`."""
        dtype = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype, dtype is not None)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called by lm-eval under `use_cache`: until it lets go of its file, finished requests are
        kept in a journal beside it.
        """
        database = cache_hook.dbdict
        if database is not None:
            prefix, cache_rank = keep_apart(database, self.fingerprint())
            journal = Journal(
                prefix, cache_rank, self.fingerprint(), self.text_settings, self.choose_packed
            )
            cache_hook = JournalHook(database, journal)
        super().set_cache_hook(cache_hook)

    def gather_records(self) -> list[RequestRecord] | None:
        """What became of each request of the last `generate_until`, of all processes; None except
        on rank 0.  Every process has to call it."""
        if self.world_size == 1:
            return self._records
        gathered: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        # lm-eval 0.4.10 has no method for this.
        torch.distributed.gather_object(self._records, gathered, dst=0)
        return None if gathered is None else [record for part in gathered for record in part]

    def speculative_decoding(
        self, records: Sequence[RequestRecord] | None = None
    ) -> dict[str, Any]:
        """The block for the results file: statistics overall and per task, and what they were
        measured on.

        Args:
            records: those of all processes; None takes this process's own.
        """
        block = summarise(self._records if records is None else records)
        block |= {
            "remarks": remarks(block, self.fly_config, self.num_rows),
            "draft_length": self.fly_config.setup.draft_length,
            "batch_size": self.num_rows,
            "processes": self.world_size,
            "served": self.decoder.served if "decoder" in vars(self) else None,
            "packed": to_json(self.packer.summary),
            "forwards": dict(self.decoder.compiled.told) if "decoder" in vars(self) else None,
            "is_lossless": self._is_lossless,
            "loosens_copies": self.fly_config.setup.loosens_copies,
            "drafting": to_json(self.decoder.report()) if "decoder" in vars(self) else {},
            "target": self._describe(self.fly_config.target_model_path, self.model),
            "draft": self.draft and self._describe(self.fly_config.draft_model_path, self.draft),
            "config": to_json(self.fly_config.to_dict()),
            "versions": versions(),
        }
        return block

    @property
    def _is_lossless(self) -> bool:
        """By rule, settings and drafter; a pair that cannot speculate decodes plainly."""
        is_loaded = "decoder" in vars(self)
        return self.decoder.is_lossless if is_loaded else not self.fly_config.setup.is_loose

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits over `text_settings`; unlike all others where those are."""
        return digest(self.text_settings)

    @cached_property
    def text_settings(self) -> dict[str, Any]:
        """All that can change a text, as plain JSON."""
        return text_settings(self.fly_config, self._target_options, self.model, self.draft)

    def get_model_info(self) -> dict[str, Any]:
        """HFLM's description of the target, what it was decoded with, and the statistics.

        lm-eval asks once, after the evaluation, and puts it into `results["config"]`.  Asked again
        without a `generate_until` between, it was an evaluation without generation: no statistics.
        """
        if self._records_are_told:
            self._records = []
        self._records_are_told = True
        info: dict[str, Any] = super().get_model_info()
        info["target_model_path"] = self.fly_config.target_model_path
        info["draft_model_path"] = self.fly_config.draft_model_path if self.draft else None
        info["fly_config"] = to_json(self.fly_config.to_dict())
        info["speculative_decoding"] = self.speculative_decoding()
        return info

    def reader(self) -> RequestReader:
        """What turns lm-eval's requests into the engine's, and results into answers."""
        return RequestReader(
            tokenizer=self.tokenizer,
            config=self.fly_config,
            max_context=min(self.max_length, self.decoder.max_context or self.max_length),
            default_max_gen_toks=self.max_gen_toks,
            prefix_token_id=self.prefix_token_id,
            add_bos_token=self.add_bos_token,
            truncation=bool(self.truncation),
            think_end_token=self.think_end_token,
            enable_thinking=self.chat_template_args.get("enable_thinking"),
            stop_strings=self.decoder.defaults.stop_strings,
            idle_budget=self.decoder.defaults.named_budget,
            vocab_size=self.decoder.vocab_size,
        )

    @property
    def _trust_remote_code(self) -> bool:
        return bool(self._target_options.get("trust_remote_code", False))

    def _get_config(self, pretrained: str, **options: Any) -> None:
        """Hook of HFLM, the first to open the target: here an encoder-decoder model is refused."""
        with pair.opening("target_model_path", pretrained):
            super()._get_config(pretrained, **options)
        check_decoder_only(self.config, f"target_model_path is {pretrained!r}")

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **options: Any) -> None:
        """Hook of HFLM, between the two others."""
        path = tokenizer or pretrained
        key = "tokenizer" if tokenizer else "target_model_path"
        with pair.opening(key, path if isinstance(path, str) else type(path).__name__):
            super()._create_tokenizer(pretrained, tokenizer, **options)

    def _create_model(self, pretrained: str, **options: Any) -> None:
        """Hook of HFLM, after the tokenizer and before the weights: here the tokenizers are
        compared, unless the drafter translates."""
        path = self.fly_config.draft_model_path
        if self._template_name is not None:
            pair.find_template(self.tokenizer, self._template_name)
        if self.fly_config.setup.traits.needs_model and path is not None:
            draft = pair.load_draft_tokenizer(
                path, self.fly_config, trust_remote_code=self._trust_remote_code
            )
            if not self.fly_config.setup.traits.own_tokenizer:
                pair.compare_tokenizers(self.tokenizer, draft, names=(pretrained, path))
            self.draft_tokenizer = draft
        with pair.opening("target_model_path", pretrained, options):
            super()._create_model(pretrained, **options)

    def _weights_planned(self) -> Weights | None:
        """What the target's weights would take."""
        config = vars(self).get("_config")
        return config and weights_planned(config, self._target_options.get("dtype"))

    def _load_draft(self) -> PreTrainedModel | None:
        path = self.fly_config.draft_model_path
        if not self.fly_config.setup.traits.needs_model or path is None:
            return None
        if pair.is_same_model(self.fly_config, self._target_options):
            shared: PreTrainedModel = self.model
            return shared
        return pair.load_draft(
            path,
            self.fly_config,
            dtype=self.model.dtype,
            devices=draft_devices(self.model, torch.device(self.device)),
            trust_remote_code=self._trust_remote_code,
        )

    @staticmethod
    def _describe(path: str | None, model: PreTrainedModel) -> dict[str, Any]:
        return {
            "path": path,
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": model.num_parameters(),
            "architecture": type(model).__name__,
        }
