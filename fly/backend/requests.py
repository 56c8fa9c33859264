"""lm-eval's Instances become the engine's Requests, and Results become the answers that HFLM would
have given.

The rules are HFLM's (0.4.10 to 0.4.13): aliases of `max_gen_toks`, stop strings, the BOS decision,
cutting prompts from the left, what samples and what does not.  Differs: prompts are cut one by one
and not as a padded batch; what HFLM hands on to `generate` and the engine does not have is refused
instead of ignored; the configuration's temperature holds for requests that say nothing of sampling.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from fly.decoding import OTHER_METHODS, SHAPING, Request, Result, Thinking
from fly.decoding.stop_strings import opening_of
from fly.errors import RequestError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig

logger = logging.getLogger(__name__)

# What `generate` takes and the engine reads elsewhere or does not heed, or heeds only at another
# value than the one here.
_IGNORED = frozenset({"do_sample", "temperature", "use_cache", "pad_token_id", "max_length"})
_NEUTRAL = {"num_return_sequences": 1, "length_penalty": 1.0, "early_stopping": False}


def wanted_temperature(gen_kwargs: Mapping[str, Any], configured: float) -> float:
    """The temperature that generation arguments ask for, 0 for greedy decoding; `configured` holds
    where they leave it open.  0 for `do_sample` at temperature 0, which nobody can mean.
    """
    do_sample, temperature = gen_kwargs.get("do_sample"), gen_kwargs.get("temperature")
    if do_sample is not None and not do_sample:
        return 0.0
    return configured if temperature is None else float(temperature)


@dataclass(frozen=True)
class Prepared:
    """One Instance: the engine's request, and the stop strings (the EOS text among them) that clean
    its answer."""

    request: Request
    until: tuple[str, ...]


@dataclass(frozen=True)
class RequestReader:
    """Turns Instances into requests and results into answers, as HFLM would.

    `max_context` counts prompt and new tokens; `default_max_gen_toks` holds for tasks that name no
    budget.
    """

    tokenizer: PreTrainedTokenizerBase
    config: FLyConfig
    max_context: int
    default_max_gen_toks: int
    prefix_token_id: int | None
    add_bos_token: bool | None = None
    truncation: bool = False
    think_end_token: str | int | None = None
    enable_thinking: bool | None = None  # None leaves it to the chat template

    def read(self, instances: Sequence[Instance], seeds: Sequence[int]) -> list[Prepared]:
        """All requests, in the order given, each with the seed of its draws.  Says once how many
        prompts had to be cut.

        Raises:
            RequestError: a request leaves no room for its prompt, samples at temperature 0, or asks
                for what the engine does not have.
        """
        prepared, num_cut = [], 0
        for instance, seed in zip(instances, seeds, strict=True):
            context, gen_kwargs = instance.args
            one, cut = self._read_one(context, gen_kwargs, instance.task_name or "", seed)
            prepared.append(one)
            num_cut += cut
        if num_cut:
            logger.warning(
                "%d of %d prompts leave no room for their max_gen_toks in the context of %d tokens "
                "and were cut from the left",
                num_cut,
                len(prepared),
                self.max_context,
            )
        return prepared

    def answer(self, prepared: Prepared, result: Result) -> str:
        """The text of a result without stop string and thinking, as HFLM returns it."""
        text, end = result.text, self._think_end
        if isinstance(end, int):
            if end in result.token_ids:
                last = len(result.token_ids) - 1 - result.token_ids[::-1].index(end)
                answer_ids = result.token_ids[last + 1 :]
                text = str(self.tokenizer.decode(answer_ids, skip_special_tokens=True))
            text = text.lstrip()  # with and without the token
        marker = end if isinstance(end, str) else None
        answer: str = postprocess_generated_text(text, list(prepared.until), marker)
        return answer

    def _read_one(
        self, context: str, gen_kwargs: dict[str, Any], task: str, seed: int
    ) -> tuple[Prepared, bool]:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, self.default_max_gen_toks))
        eos = self._eos_text()
        until = handle_stop_sequences(kwargs.pop("until"), eos=eos)
        budget = int(kwargs.pop("max_gen_toks"))
        if self.config.total_gen_tok is not None:
            budget = min(budget, self.config.total_gen_tok)
        temperature = self._temperature(gen_kwargs, task)
        self._refuse_unknown(kwargs, task)
        room = self.max_context - budget
        if budget < 1 or room < 1:
            raise RequestError(
                f"task {task!r}: max_gen_toks is {budget}, but prompt and answer together have "
                f"room for {self.max_context} tokens",
                fix="lower it: --gen_kwargs max_gen_toks=N, or total_gen_tok in the configuration",
            )
        ids = self._encode(context)
        prompt = ids[-room:]
        if kwargs.get("max_length") is not None:
            budget = self._budget_from_max_length(int(kwargs["max_length"]), len(prompt), task)
        request = Request(
            prompt_ids=tuple(prompt),
            max_new_tokens=budget,
            stop=tuple(string for string in until if string and string != eos),
            temperature=temperature,
            seed=seed,
            generation={
                key: value
                for key, value in kwargs.items()
                if key in SHAPING or key in OTHER_METHODS
            },
            key=task,
            thinking=self._thinking(context),
        )
        return Prepared(request, tuple(until)), len(ids) > room

    @cached_property
    def _think_end(self) -> str | int | None:
        """A special token as its id: the texts of answers do not show it.  Differs: HFLM looks
        there, and takes all of the thinking for the answer."""
        end = self.think_end_token
        if not isinstance(end, str):
            return end
        added = self.tokenizer.added_tokens_decoder.items()
        ids = [index for index, token in added if token.special and token.content == end]
        return ids[0] if ids else end

    def _thinking(self, context: str) -> Thinking | None:
        """What comes before the answer, of a model that thinks; over where the prompt ends it, as
        templates do that switch it off."""
        end = self._think_end
        if end is None:
            return None
        marker = end if isinstance(end, str) else str(self.tokenizer.decode([end]))
        opening = opening_of(marker)
        opened = context.rfind(opening) if opening else -1
        is_off = self.enable_thinking is not None and not self.enable_thinking
        return Thinking(end, is_over=is_off or context.rfind(marker) > opened)

    def _eos_text(self) -> str | None:
        """HFLM's last stop string.  The engine stops at the id itself."""
        eos_id = self.tokenizer.eos_token_id
        if eos_id is None:
            return None
        return str(self.tokenizer.decode([eos_id], skip_special_tokens=False))

    def _encode(self, context: str) -> list[int]:
        """Ids of a prompt; BOS as HFLM decides it, but for each prompt.  An empty one becomes the
        prefix token."""
        options: dict[str, Any] = {}
        bos = getattr(self.tokenizer, "bos_token", None)
        if bos and context.startswith(bos):
            options["add_special_tokens"] = False
        elif self.add_bos_token is not None:
            options["add_special_tokens"] = self.add_bos_token
        ids: list[int] = self.tokenizer(context, truncation=self.truncation, **options)["input_ids"]
        if ids:
            return ids
        if self.prefix_token_id is None:
            raise RequestError(
                "a prompt is empty and the tokenizer has neither BOS nor EOS to begin with",
                fix="give prefix_token_id=ID among the model arguments",
            )
        return [self.prefix_token_id]

    def _temperature(self, gen_kwargs: dict[str, Any], task: str) -> float:
        temperature = wanted_temperature(gen_kwargs, self.config.temperature)
        if gen_kwargs.get("do_sample") and temperature <= 0:
            raise RequestError(
                f"task {task!r}: do_sample is True, but temperature is "
                f"{gen_kwargs.get('temperature')}",
                fix="add a temperature: --gen_kwargs do_sample=True,temperature=0.8",
            )
        return temperature

    def _refuse_unknown(self, kwargs: dict[str, Any], task: str) -> None:
        for key, value in kwargs.items():
            if key in _IGNORED or key in SHAPING or value is None:
                continue
            if key in _NEUTRAL and value == _NEUTRAL[key]:
                continue
            if value in OTHER_METHODS.get(key, ()):
                continue
            raise RequestError(
                f"task {task!r}: generation argument {key} is {value!r}, which speculative "
                "decoding does not have",
                fix="leave it out, or evaluate with lm-eval's own hf model, without config_path",
            )

    def _budget_from_max_length(self, max_length: int, prompt_len: int, task: str) -> int:
        """`max_length` counts the prompt too and, as in HFLM, goes before `max_gen_toks`."""
        logger.warning("`max_length` in generation arguments counts the prompt; use `max_gen_toks`")
        budget = min(max_length, self.max_context) - prompt_len
        if budget < 1:
            raise RequestError(
                f"task {task!r}: max_length is {max_length}, but a prompt has {prompt_len} tokens",
                fix="use max_gen_toks, which counts new tokens only",
            )
        return budget
