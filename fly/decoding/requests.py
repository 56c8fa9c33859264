"""Checks of what is asked, before anything is decoded."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fly.decoding.arguments import plain_value, read_arguments
from fly.decoding.request import Request
from fly.errors import FLyWarning, RequestError, quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import Setup

# Below, logits divided by it overflow.
LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class RequestCheck:
    """What models, rule and drafter can be asked."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    num_positions: int | None
    setup: Setup

    def encode(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """A prompt's ids; a text is encoded with the special tokens that the tokenizer adds by
        default.

        Raises:
            RequestError: it is neither a text nor a list of ids.
        """
        if isinstance(prompt, str):
            refuse_lone_surrogates(prompt, "a prompt")
        try:
            ids = self.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
            # Tensors and arrays give up their elements as integers of their own.
            return tuple(map(operator.index, ids))
        except TypeError:
            raise RequestError(
                f"{quoted(prompt)} is neither a text nor a list of token ids",
                fix="give a list of prompts, each a text or a list of ids",
            ) from None

    def prompted(
        self, prompts: Sequence[str | Sequence[int]], stop: Iterable[str], asked: Request
    ) -> list[Request]:
        """The same asked of every prompt, each with a seed of its own.

        Raises:
            RequestError: the prompts or the stop strings are no list, or see `encode`.
        """
        for name, value in (("prompts", prompts), ("stop", stop)):
            if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
                raise RequestError(
                    f"{name} is {quoted(value)}, not a list", fix="give a list, even of one"
                )
        asked, seed = replace(asked, stop=tuple(stop)), _whole(asked.seed)
        return [
            replace(
                asked,
                prompt_ids=self.encode(prompt),
                seed=asked.seed if seed is None else seed + index,
            )
            for index, prompt in enumerate(prompts)
        ]

    def read(self, index: int, request: Request) -> tuple[Request, int]:
        """The request with its arguments as plain numbers and lists, and the new tokens that it
        may get: what it asks, cut with a warning where the context ends before.

        Raises:
            RequestError: empty or too long a prompt, an id outside the vocabulary, no budget, an
                empty stop string, an argument that is impossible, or a temperature that is none
                for the rule or drafter.
        """
        whose = named(index, request)
        request = replace(request, prompt_ids=self.encode(request.prompt_ids))
        self._check_prompt(whose, request.prompt_ids)
        budget = _whole(request.max_new_tokens)
        if budget is None or budget < 1:
            raise RequestError(
                f"{whose}: max_new_tokens is {quoted(request.max_new_tokens)}",
                fix="ask for a whole number of tokens, at least one",
            )
        seed = _whole(request.seed)
        if seed is None:
            raise RequestError(
                f"{whose}: seed is {quoted(request.seed)}", fix="give a whole number"
            )
        _check_stop(whose, request.stop)
        temperature = self._temperature(whose, request.temperature)
        arguments = read_arguments(request.generation, self.vocab_size, whose)
        request = replace(
            request,
            stop=tuple(request.stop),
            temperature=temperature,
            seed=seed,
            generation=arguments,
        )
        return request, self._budget(whose, budget, len(request.prompt_ids))

    def _budget(self, whose: str, asked: int, prompt_len: int) -> int:
        wanted = min(asked, self.setup.total_gen_tok or asked)
        if self.num_positions is None:
            return wanted
        room = self.num_positions - prompt_len
        if wanted > room:
            warnings.warn(
                f"{whose}: {wanted} new tokens do not fit behind a prompt "
                f"of {prompt_len} in a context of {self.num_positions}; "
                f"it gets {room}",
                FLyWarning,
                stacklevel=5,
            )
        return min(wanted, room)

    def _temperature(self, whose: str, asked: object) -> float:
        temperature = plain_value(asked)
        is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
        if not is_number or not (temperature == 0 or LEAST_TEMPERATURE <= temperature < math.inf):
            raise RequestError(
                f"{whose}: temperature is {quoted(asked)}",
                fix=f"use 0 for greedy decoding, or a number from {LEAST_TEMPERATURE} up",
            )
        misfit = self.setup.misfit_at(temperature)
        if misfit is not None:
            kind, why = misfit
            raise RequestError(
                f"{whose}: {why} here, whatever the configuration's is",
                fix=f"ask for another temperature, or choose another {kind}",
            )
        return float(temperature)

    def _check_prompt(self, whose: str, ids: tuple[int, ...]) -> None:
        if not ids:
            raise RequestError(
                f"{whose}: the prompt has no tokens",
                fix="give at least one token, for instance the one that begins a text",
            )
        if self.num_positions is not None and len(ids) >= self.num_positions:
            raise RequestError(
                f"{whose}: the prompt has {len(ids)} tokens, and the target's context ends "
                f"at {self.num_positions}",
                fix="shorten the prompt so that at least one new token fits",
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise RequestError(
                f"{whose}: the prompt holds token ids from {min(ids)} to {max(ids)}, but "
                f"the target's vocabulary ends at {self.vocab_size - 1}",
                fix="encode the prompt with the target's tokenizer",
            )


def named(index: int, request: Request) -> str:
    """What errors call a request."""
    return f"request {index} (task {request.key!r})" if request.key else f"request {index}"


def refuse_lone_surrogates(text: str, what: str) -> None:
    """Refuse what no tokenizer can read, as half of a character that JSON or Python spelt out.

    Raises:
        RequestError: names `what`, and where in it the first one is.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{what} holds a lone surrogate, {text[error.start]!r} at character {error.start}: "
            f"{quoted(text[max(0, error.start - 20) :])}",
            fix="write the whole character",
        ) from None


def _check_stop(whose: str, stop: object) -> None:
    if not isinstance(stop, (list, tuple)) or not all(
        isinstance(text, str) and text for text in stop
    ):
        raise RequestError(
            f"{whose}: stop is {quoted(stop)}", fix="give a list of strings, none of them empty"
        )
    for text in stop:
        refuse_lone_surrogates(text, f"{whose}: a stop string")


def _whole(value: object) -> int | None:
    """Integers of any library; None for all else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
