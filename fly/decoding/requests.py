"""Checks of what is asked, before anything is decoded."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fly.config.variants import misfit_at
from fly.decoding.rows import Request
from fly.errors import FLyWarning, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig

# Below, logits divided by it overflow.
LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class RequestCheck:
    """What models, rule and drafter can be asked."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    num_positions: int | None
    config: FLyConfig

    def encode(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """A prompt's ids; a text is encoded with the special tokens that the tokenizer adds by
        default.

        Raises:
            RequestError: it is neither a text nor a list of ids.
        """
        ids = self.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        try:
            # Tensors and arrays give up their elements as integers of their own.
            return tuple(map(operator.index, ids))
        except TypeError:
            raise RequestError(
                f"{prompt!r} is neither a text nor a list of token ids",
                fix="give a list of prompts, each a text or a list of ids",
            ) from None

    def budget(self, index: int, request: Request) -> int:
        """New tokens that the request may get: what it asks, cut with a warning where the context
        ends before.

        Raises:
            RequestError: empty or too long a prompt, an id outside the vocabulary, no budget, an
                empty stop string, or a temperature that is impossible or none for the rule or
                drafter.
        """
        self._check_prompt(index, request.prompt_ids)
        if request.max_new_tokens < 1:
            raise RequestError(
                f"request {index}: max_new_tokens is {request.max_new_tokens!r}",
                fix="ask for at least one token",
            )
        if isinstance(request.stop, str) or not all(request.stop):
            raise RequestError(
                f"request {index}: stop is {request.stop!r}",
                fix="give a list of strings, none of them empty",
            )
        self._check_temperature(index, request)
        most = self.config.total_gen_tok
        wanted = min(request.max_new_tokens, most or request.max_new_tokens)
        if self.num_positions is None:
            return wanted
        room = self.num_positions - len(request.prompt_ids)
        if wanted > room:
            warnings.warn(
                f"request {index}: {wanted} new tokens do not fit behind a prompt "
                f"of {len(request.prompt_ids)} in a context of {self.num_positions}; "
                f"it gets {room}",
                FLyWarning,
                stacklevel=4,
            )
        return min(wanted, room)

    def _check_temperature(self, index: int, request: Request) -> None:
        temperature = request.temperature
        if temperature != 0 and not LEAST_TEMPERATURE <= temperature < math.inf:
            raise RequestError(
                f"request {index}: temperature is {temperature!r}",
                fix=f"use 0 for greedy decoding, or a number from {LEAST_TEMPERATURE} up",
            )
        misfit = misfit_at(self.config, temperature)
        if misfit is not None:
            kind, why = misfit
            whose = f" (task {request.key!r})" if request.key else ""
            raise RequestError(
                f"request {index}{whose}: {why} here, whatever the configuration's is",
                fix=f"ask for another temperature, or choose another {kind}",
            )

    def _check_prompt(self, index: int, ids: tuple[int, ...]) -> None:
        if not ids:
            raise RequestError(
                f"request {index}: the prompt has no tokens",
                fix="give at least one token, for instance the one that begins a text",
            )
        if self.num_positions is not None and len(ids) >= self.num_positions:
            raise RequestError(
                f"request {index}: the prompt has {len(ids)} tokens, and the target's context ends "
                f"at {self.num_positions}",
                fix="shorten the prompt so that at least one new token fits",
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise RequestError(
                f"request {index}: the prompt holds token ids from {min(ids)} to {max(ids)}, but "
                f"the target's vocabulary ends at {self.vocab_size - 1}",
                fix="encode the prompt with the target's tokenizer",
            )
