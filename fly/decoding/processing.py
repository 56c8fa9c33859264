"""What transformers' `generate` would do to logits before it chooses a token, per request: the
processors that the target's generation config and the request ask for, in transformers' own order
and with its own defaults (a sampled request gets top_k 50 unless it says otherwise).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from fly.errors import RequestError

if TYPE_CHECKING:
    from fly.decoding.rows import Request

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
# Arguments of `generate` that shape the distribution of the next token.
SHAPING = frozenset(
    {
        "top_k",
        "top_p",
        "top_h",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "bad_words_ids",
        "sequence_bias",
        "min_length",
        "min_new_tokens",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "remove_invalid_values",
        "renormalize_logits",
    }
)
# Ways of decoding that no processor expresses, with the values that leave them out.
OTHER_METHODS: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "guidance_scale": (None, 1),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "watermarking_config": (None,),
}


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


class _Builder(GenerationMixin):
    """As much of a model as transformers needs to choose processors."""

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

    def make(self, index: int, request: Request, budget: int) -> Processing | None:
        """The request's processing; None where its tokens are plain argmaxes.

        Raises:
            RequestError: an argument is impossible, or asks for another way of decoding.
        """
        asked = {name: _plain(value) for name, value in request.generation.items()}
        key = repr((request.temperature, sorted(asked.items())))
        if key not in self._known:
            processing = self._build(index, replace(request, generation=asked), budget)
            if processing is not None and processing.needs_history:
                return processing  # its processors may know the prompt's length
            self._known[key] = processing
        return self._known[key]

    def _build(self, index: int, request: Request, budget: int) -> Processing | None:
        wanted: dict[str, Any] = dict(request.generation) | {"do_sample": request.temperature > 0}
        if request.temperature > 0:
            wanted["temperature"] = float(request.temperature)
        _refuse_other_arguments(index, request)
        try:
            length = len(request.prompt_ids)
            config = self._merge(wanted, length + budget)
            processors = self._builder._get_logits_processor(
                config, input_ids_seq_length=length, device=self._device
            )
            self._try(processors, config, request)
        except (ValueError, TypeError, IndexError) as error:
            raise RequestError(
                f"request {index}: {error} (generation arguments {wanted})",
                fix="give arguments that transformers' generate takes",
            ) from error
        _refuse_other_methods(index, config)
        if not processors and not config.do_sample:
            return None
        names = {type(processor).__name__ for processor in processors}
        needs_history = not names <= CONTEXT_FREE
        return Processing(processors, bool(config.do_sample), needs_history, self._device)

    def _try(
        self, processors: LogitsProcessorList, config: GenerationConfig, request: Request
    ) -> None:
        """Let errors that depend on ids come now and not in the middle of decoding."""
        for name in ("forced_bos_token_id", "forced_eos_token_id"):  # each at one length only
            ids = torch.tensor(getattr(config, name, None) or 0)
            if ids.min() < 0 or ids.max() >= self._vocab_size:
                raise ValueError(f"{name} is not in the vocabulary of {self._vocab_size}")
        history = torch.tensor([request.prompt_ids], device=self._device)
        Processing(processors, False, True, self._device).apply(
            torch.zeros(1, self._vocab_size, device=self._device), history
        )

    def _merge(self, wanted: Mapping[str, Any], max_length: int) -> GenerationConfig:
        """What `generate` would run with: the request over the model's config over the defaults."""
        config: Any = copy.deepcopy(self._defaults)
        defaults = getattr(config, "_get_default_generation_params", None)
        if defaults is not None:  # transformers 5 keeps what nobody has set as None until here
            config.update(**defaults(), defaults_only=True)
        config.update(**wanted)
        config.max_length = max_length
        ids = config.eos_token_id
        tensor = None if ids is None else torch.tensor(ids, device=self._device).reshape(-1)
        config._eos_token_tensor = tensor
        merged: GenerationConfig = config
        return merged


def _plain(value: object) -> object:
    """Tensors and arrays as lists, whose text tells them apart."""
    return value.tolist() if hasattr(value, "tolist") else value


def _refuse_other_arguments(index: int, request: Request) -> None:
    for name, value in request.generation.items():
        if name not in SHAPING and value not in OTHER_METHODS.get(name, ()):
            raise RequestError(
                f"request {index}: generation argument {name} is {value!r}, which speculative "
                "decoding does not have",
                fix="leave it out, or decode with transformers' own generate",
            )


def _refuse_other_methods(index: int, config: GenerationConfig) -> None:
    for name, neutral in OTHER_METHODS.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise RequestError(
                f"request {index}: the target's generation config has {name} {value!r}, which "
                "speculative decoding does not do",
                fix=f"ask for {name} {neutral[-1]!r}, or remove it from the target's "
                "generation_config.json",
            )
