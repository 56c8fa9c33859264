"""Generation arguments of a task, read and checked before decoding.  The rules are HFLM's (0.4.10
to 0.4.13): aliases of `max_gen_toks`, texts that are numbers, what samples and what does not."""

# Differs: null counts as absent; what HFLM hands on to `generate` and the engine does not have is
# refused instead of ignored; the configuration's temperature holds for requests that have nothing
# about sampling.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fly.engine.admission import LEAST_TEMPERATURE, refuse_lone_surrogates
from fly.engine.request import Ways, plain_value, read_arguments
from fly.errors import RequestError, quoted

# In HFLM's order: the first one given holds.
_BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Read here, or of no effect on a text.
_READ = frozenset({"until", "do_sample", "temperature", "max_length", *_BUDGETS})
_IDLE = frozenset({"use_cache", "pad_token_id"})
# Heeded by beam search alone, at another value than this one.
_OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}
_FLAGS = {"true": True, "false": False}
WAYS = Ways(
    {
        "stop": "name the strings that end an answer under until",
        "stop_strings": "name the strings that end an answer under until",
        "num_return_sequences": "set repeats in the task's YAML: every copy is drawn on its own",
        "seed": "leave it out; --seed of the command line seeds the draws",
    },
    ("until", "do_sample", "temperature", "max_gen_toks"),
    "leave it out, or evaluate with lm-eval's own hf model, without config_path",
)


@dataclass(frozen=True)
class GenerationArguments:
    """Generation arguments of one request."""

    until: tuple[str, ...]
    budget_key: str  # under which name the budget was given
    max_gen_toks: int | None  # None: nothing was given
    max_length: int | None  # counts the prompt, too
    generation: dict[str, Any]  # as fly.engine.Request's
    notes: tuple[str, ...]  # what is odd, though it holds

    @classmethod
    def read(
        cls, gen_kwargs: Mapping[str, Any], where: str, vocab_size: int | None = None
    ) -> GenerationArguments:
        """Read all of them but what decides whether tokens are drawn (`wanted_temperature`), which
        is only looked at.

        Args:
            gen_kwargs: as lm-eval has them.
            where: names them in errors, for instance "task 'gsm8k'".
            vocab_size: the target's, once it is known.

        Raises:
            RequestError: one cannot be as it is, or is none that the engine has.
        """
        kwargs = {key: value for key, value in gen_kwargs.items() if value is not None}
        wanted_temperature(kwargs, 0.0, where)
        budgets = {key: _tokens(key, kwargs[key], where) for key in _BUDGETS if key in kwargs}
        first = next(iter(budgets), _BUDGETS[0])
        length = kwargs.get("max_length")
        notes = []
        if len(set(budgets.values())) > 1:
            notes.append(f"{where}: of {', '.join(budgets)} the first holds, {budgets[first]}")
        if length is not None:
            notes.append(f"{where}: max_length counts the prompt; use max_gen_toks")
        rest: dict[str, Any] = {}
        for key, value in kwargs.items():
            if key in _READ or key in _IDLE:
                continue
            if key in _OF_BEAMS and _is_neutral(value, _OF_BEAMS[key]):
                continue
            rest |= read_arguments({key: value}, vocab_size, where, WAYS)
        return cls(
            until=_until(kwargs.get("until"), where),
            budget_key=first,
            max_gen_toks=budgets.get(first),
            max_length=None if length is None else _tokens("max_length", length, where),
            generation=rest,
            notes=tuple(notes),
        )


def wanted_temperature(gen_kwargs: Mapping[str, Any], configured: float, where: str) -> float:
    """The temperature that generation arguments ask for, 0 for greedy decoding; `configured` holds
    where they leave it open.  0 for `do_sample` at temperature 0, which nobody can mean.

    Raises:
        RequestError: `do_sample` or `temperature` cannot be as it is.
    """
    do_sample, temperature = gen_kwargs.get("do_sample"), gen_kwargs.get("temperature")
    wanted = configured if temperature is None else _temperature(temperature, where)
    return wanted if do_sample is None or read_do_sample(do_sample, where) else 0.0


def read_do_sample(value: Any, where: str) -> bool:
    """A flag, or what lm-eval's command line takes for one.

    Raises:
        RequestError: it is neither.
    """
    plain = plain_value(value)
    flag = _FLAGS.get(plain.lower()) if isinstance(plain, str) else plain
    if not isinstance(flag, (bool, int)) or flag not in (0, 1):
        raise _wrong("do_sample", value, "true or false", where)
    return bool(flag)


def _temperature(value: Any, where: str) -> float:
    number = _number(value)
    if number is None or not (number == 0 or LEAST_TEMPERATURE <= number < math.inf):
        what = f"0, or a number from {LEAST_TEMPERATURE:g} up"
        raise _wrong("temperature", value, what, where)
    return number


def _tokens(key: str, value: Any, where: str) -> int:
    plain = plain_value(value)
    number = _number(plain)
    if number is None or not (math.isfinite(number) and number >= 1 and number == int(number)):
        raise _wrong(key, value, "a whole number of tokens, at least 1", where)
    return plain if isinstance(plain, int) else int(number)


def _number(value: Any) -> float | None:
    """Also of a text, as lm-eval reads it; None where it is none."""
    plain = plain_value(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, float, str)):
        return None
    try:
        return float(plain)
    except (ValueError, OverflowError):
        return None


def _until(value: Any, where: str) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(each, str) for each in texts):
        raise _wrong("until", value, 'a text or a list of texts, as in until: ["5"]', where)
    for text in texts:
        refuse_lone_surrogates(text, f"{where}: until, {quoted(value)},")
    return tuple(map(str, texts))


def _is_neutral(value: Any, neutral: object) -> bool:
    plain = plain_value(value)
    return isinstance(plain, (bool, int, float)) and plain == neutral


def _wrong(key: str, value: object, what: str, where: str) -> RequestError:
    return RequestError(
        f"{where}: {key} is {quoted(value)}, but it has to be {what}",
        fix=f"give another value, in the task's YAML or with --gen_kwargs {key}=...",
    )
