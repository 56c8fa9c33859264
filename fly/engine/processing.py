"""Logits processors of each request, as in transformers' `generate`.  Those that the target's
generation config and the request ask for, in transformers' own order and with its own defaults (a
sampled request gets top_k 50 unless it has its own)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from fly.engine.request import OTHER_METHODS
from fly.errors import RequestError, quoted

if TYPE_CHECKING:
    from fly.engine.request import Request

# Look at one row of logits and at no earlier token, so that all positions go through at once.
CONTEXT_FREE = frozenset(
    {
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TopHLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "SuppressTokensLogitsProcessor",
        "LogitNormalization",
        "InfNanRemoveLogitsProcessor",
    }
)
MAX_NEW_TOKENS = 256  # of an answer for which nobody names a number
# Of a penalty that grows with the text; beyond, logits leave float32.
MOST_FACTOR = 1e30
# What transformers answers to values that it did not expect.
_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Processing:
    """One request's processors."""

    processors: LogitsProcessorList
    is_sampled: bool
    needs_history: bool
    device: torch.device  # of the processors' own tensors

    def apply(self, logits: Tensor, history: Tensor | None = None) -> Tensor:
        """Process logits [n, V] float32 that follow `history` [n, T] int64, which only those with
        `needs_history` read.  A draft's logits may be on another device, and stay there.
        """
        if history is None:
            history = torch.empty(len(logits), 0, dtype=torch.int64, device=self.device)
        processors: Any = self.processors  # its types ask for LongTensor
        processed: Tensor = processors(history.to(self.device), logits.to(self.device))
        return processed.to(logits.device)


@dataclass(frozen=True)
class Defaults:
    """Default length and end of answers."""

    max_new_tokens: int
    stop_strings: tuple[str, ...]
    named_budget: int | None  # from the generation config


class _Builder(GenerationMixin):
    """Stand-in for a model, as much as transformers needs to choose processors."""

    def __init__(self, config: Any) -> None:
        self.config = config


class ProcessingFactory:
    """Makes the processing of requests to one target."""

    def __init__(self, model: Any, vocab_size: int, device: torch.device) -> None:
        """Read the model's generation config; its logits [.., vocab_size] come on `device`."""
        self._vocab_size = vocab_size
        self._builder: Any = _Builder(model.config)
        found = getattr(model, "generation_config", None)
        self._defaults: GenerationConfig = GenerationConfig() if found is None else found
        self._device = device
        self._known: dict[str, Processing | None] = {}

    @property
    def defaults(self) -> Defaults:
        """Ends of answers by the target's generation config."""
        config = self._defaults
        named = config.stop_strings
        stops = tuple(named) if isinstance(named, (list, tuple)) else (named,) if named else ()
        return Defaults(
            MAX_NEW_TOKENS if config.max_new_tokens is None else config.max_new_tokens,
            stops,
            config.max_new_tokens,
        )

    def make(self, request: Request, budget: int, whose: str) -> Processing | None:
        """The processing of a request whose arguments were read (fly/engine/request.py); None
        where its tokens are plain argmaxes.

        Args:
            request: what is asked.
            budget: new tokens that it may get.
            whose: names it in errors.

        Raises:
            RequestError: arguments or generation config are impossible together, leave no token, or
                ask for another way of decoding.
        """
        key = repr((request.temperature, sorted(request.generation.items())))
        if key not in self._known:
            processing = self._build(request, budget, whose)
            if processing is not None and processing.needs_history:
                return processing  # its processors may hold the prompt
            self._known[key] = processing
        return self._known[key]

    def _build(self, request: Request, budget: int, whose: str) -> Processing | None:
        wanted: dict[str, Any] = dict(request.generation) | {"do_sample": request.temperature > 0}
        if request.temperature > 0:
            wanted["temperature"] = float(request.temperature)
        self._refuse_other_methods(wanted, whose)
        length = len(request.prompt_ids)
        try:
            config = self._merge(wanted, length + budget)
            processors = self._builder._get_logits_processor(
                config,
                input_ids_seq_length=length,
                # Decoders take the prompt for what an encoder would read.
                encoder_input_ids=torch.tensor([request.prompt_ids], device=self._device),
                device=self._device,
            )
            self._try(processors, config, request, budget)
        except _FAILURES as error:
            given = [f"{name} is {quoted(each)}, " for name, each in request.generation.items()]
            reason = " ".join(str(error).split())[:200]
            raise RequestError(
                f"{whose}: {''.join(given)}{'with ' if given else ''}the target's generation "
                f"config: {reason}",
                fix="give other arguments, or mend the target's generation_config.json",
            ) from error
        if not processors and not config.do_sample:
            return None
        names = {type(processor).__name__ for processor in processors}
        needs_history = not names <= CONTEXT_FREE
        return Processing(processors, bool(config.do_sample), needs_history, self._device)

    def _refuse_other_methods(self, wanted: Mapping[str, Any], whose: str) -> None:
        for name, neutral in OTHER_METHODS.items():
            value = wanted.get(name) if name in wanted else getattr(self._defaults, name, None)
            if value not in neutral:
                raise RequestError(
                    f"{whose}: the target's generation config has {name} {quoted(value)}, which "
                    "speculative decoding does not do",
                    fix=f"ask for {name} {neutral[-1]!r}, or remove it from the target's "
                    "generation_config.json",
                )

    def _try(
        self,
        processors: LogitsProcessorList,
        config: GenerationConfig,
        request: Request,
        budget: int,
    ) -> None:
        """Let errors that depend on ids and lengths come now and not in the middle of decoding."""
        for name in ("forced_bos_token_id", "forced_eos_token_id"):  # each at one length only
            ids = torch.tensor(getattr(config, name, None) or 0)
            if ids.min() < 0 or ids.max() >= self._vocab_size:
                raise ValueError(f"{name} is not in the vocabulary of {self._vocab_size}")
        decay = config.exponential_decay_length_penalty
        if decay is not None and not float(decay[1]) ** budget < MOST_FACTOR:
            raise ValueError(f"exponential_decay_length_penalty is too large for {budget} tokens")
        history = torch.tensor([request.prompt_ids], device=self._device)
        logits = Processing(processors, False, True, self._device).apply(
            torch.zeros(1, self._vocab_size, device=self._device), history
        )
        if not logits.isfinite().any():
            raise ValueError("no token is left to choose")

    def _merge(self, wanted: Mapping[str, Any], max_length: int) -> GenerationConfig:
        """What `generate` would run with: the request over the model's config over the defaults."""
        config: Any = copy.deepcopy(self._defaults)
        defaults = getattr(config, "_get_default_generation_params", None)
        if defaults is not None:  # transformers 5 keeps what nobody has set as None until here
            config.update(**defaults(), defaults_only=True)
        unknown = config.update(**wanted)
        if unknown:
            raise ValueError(f"this version of transformers has no {', '.join(unknown)}")
        config.max_length = max_length
        ids = config.eos_token_id
        tensor = None if ids is None else torch.tensor(ids, device=self._device).reshape(-1)
        config._eos_token_tensor = tensor
        merged: GenerationConfig = config
        return merged
