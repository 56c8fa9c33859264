"""`Request`, one prompt to continue, with its arguments of `generate`.  Those that shape
the next token's distribution, those that mean another way of decoding, and our names for the
others."""

# transformers itself looks at most values where it uses them, at some only while it decodes, and at
# others never: `top_p=2` is then no top-p at all.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fly.errors import RequestError, quoted
from fly.registry import did_you_mean


@dataclass(frozen=True)
class Thinking:
    """Text that a model writes before its answer.  Stop strings count only after it, and after the
    blanks that follow."""

    end: str | int  # what it ends with: a text, or a token's id; of a special token the id
    is_over: bool = False  # before the first new token


@dataclass(frozen=True)
class Request:
    """One prompt to continue."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # strings that end the answer wherever they appear in it
    temperature: float = 0.0  # 0 decodes greedily
    seed: int = 0  # of its draws; two requests of one seed and prompt get the same answer
    # Further arguments of transformers' generate: top_k, top_p, ..., eos_token_id
    generation: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""  # the caller's name for it, for instance the task
    thinking: Thinking | None = None  # None: stop strings count everywhere

    @property
    def eos_ids(self) -> frozenset[int] | None:
        """The end tokens that it names in place of the model's; None: the model's."""
        named = self.generation.get("eos_token_id")
        if named is None:
            return None
        return frozenset([named] if isinstance(named, int) else named)


# Takes a value and the vocabulary's size; returns what to hand on, or None where it cannot be.
Reader = Callable[[Any, int], Any]

# Largest whole number; torch counts in 64 bits, and no text is as long.
_MOST = 2**31
# Beyond, logits that are multiplied or shifted so leave float32.
_LEAST_FACTOR, _MOST_FACTOR, _MOST_BIAS = 1e-5, 1e5, 1e30


def _whole(value: Any, _: int) -> int | None:
    return value if _is_whole(value) and 0 <= value < _MOST else None


def _between(low: float, high: float, *, low_too: bool, high_too: bool) -> Reader:
    def read(value: Any, _: int) -> float | None:
        fits = _is_number(value) and (low <= value if low_too else low < value)
        return float(value) if fits and (value <= high if high_too else value < high) else None

    return read


def _flag(value: Any, _: int) -> bool | None:
    return value if isinstance(value, bool) else None


def _token(value: Any, vocab_size: int) -> int | None:
    return value if _is_whole(value) and 0 <= value < vocab_size else None


def _tokens(value: Any, vocab_size: int) -> list[int] | None:
    if not isinstance(value, (list, tuple)):
        return None
    return None if any(_token(each, vocab_size) is None for each in value) else list(value)


def _words(value: Any, vocab_size: int) -> list[list[int]] | None:
    if not isinstance(value, (list, tuple)):
        return None
    words = [_tokens(each, vocab_size) for each in value]
    return [word for word in words if word] if words and all(words) else None


def _ends(value: Any, vocab_size: int) -> int | list[int] | None:
    return _token(value, vocab_size) if _is_whole(value) else _tokens(value, vocab_size) or None


def _biases(value: Any, vocab_size: int) -> list[list[Any]] | None:
    """The form that JSON has, too: [[ids, bias], ...]."""
    if isinstance(value, Mapping):
        value = plain_value(list(value.items()))
    if not isinstance(value, (list, tuple)) or not value:
        return None
    biases: list[list[Any]] = []
    for entry in value:
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            return None
        ids, bias = _tokens(entry[0], vocab_size), entry[1]
        if not ids or not _is_number(bias) or not (abs(bias) <= _MOST_BIAS or bias == -math.inf):
            return None
        biases.append([ids, float(bias)])
    return biases


def _decay(value: Any, vocab_size: int) -> tuple[int, float] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    start, factor = _whole(value[0], vocab_size), _factor(value[1], vocab_size)
    return None if start is None or factor is None else (start, factor)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_whole(value)


_factor = _between(_LEAST_FACTOR, _MOST_FACTOR, low_too=True, high_too=True)
_COUNT = (_whole, "a whole number, 0 or more")
_FACTOR = (_factor, f"a number from {_LEAST_FACTOR:g} to {_MOST_FACTOR:g}")
_SHARE = (_between(0, 1, low_too=False, high_too=True), "a number above 0 and at most 1")
_CUTOFF = (_between(0, 1, low_too=True, high_too=False), "a number from 0 up and below 1")
_FLAG = (_flag, "true or false")
_TOKEN = (_token, "a token id of the target")
_TOKENS = (_tokens, "a list of token ids of the target")
_ENDS = (_ends, "a token id of the target, or a list of some")

# Each with what it may be.
SHAPING: Mapping[str, tuple[Reader, str]] = {
    "top_k": (_whole, "a whole number, or 0 for no limit"),
    "top_p": _SHARE,
    "top_h": _SHARE,
    "min_p": (_between(0, 1, low_too=True, high_too=True), "a number from 0 to 1"),
    "typical_p": _SHARE,
    "epsilon_cutoff": _CUTOFF,
    "eta_cutoff": _CUTOFF,
    "repetition_penalty": _FACTOR,
    "encoder_repetition_penalty": _FACTOR,
    "no_repeat_ngram_size": _COUNT,
    "encoder_no_repeat_ngram_size": _COUNT,
    "bad_words_ids": (_words, "a list of lists of token ids of the target, none of them empty"),
    "sequence_bias": (_biases, "tuples of token ids with a number each, [[[5, 9], -2.0], ...]"),
    "min_length": _COUNT,
    "min_new_tokens": _COUNT,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _ENDS,
    "eos_token_id": _ENDS,
    "exponential_decay_length_penalty": (_decay, "a whole number and a factor, [5, 1.1]"),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
}
# Ways of decoding that no processor expresses, with the values that leave them out.
OTHER_METHODS: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "num_return_sequences": (None, 1),
    "guidance_scale": (None, 1),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "token_healing": (None, False),
    "max_time": (None,),
    "watermarking_config": (None,),
}


@dataclass(frozen=True)
class Ways:
    """Advice in place of an argument that there is none of."""

    by_name: Mapping[str, str]
    own: tuple[str, ...]  # further arguments that there are, beside those that shape
    otherwise: str


# From Python.
WAYS = Ways(
    {
        "do_sample": "temperature=0.8 draws tokens; temperature=0, the default, decodes greedily",
        "stop_strings": "stop=[...] names the strings that end an answer",
        "stopping_criteria": "stop=[...] and max_new_tokens=... end an answer",
        "max_length": "max_new_tokens=... bounds an answer; the prompt is not counted",
        "num_return_sequences": "name the prompt several times: every copy has a seed of its own",
        "streamer": "SpeculativeDecoder.decode gives every answer as soon as it is finished",
        "generation_config": "give its values as arguments, or set the target's generation_config",
        "logits_processor": "give the arguments that generate makes its own processors of",
        "prefix_allowed_tokens_fn": "give the arguments that generate makes its own processors of",
        "attention_mask": "leave it out: prompts are lists of ids without padding",
        "inputs": "give the ids among the prompts",
        "input_ids": "give the ids among the prompts",
        "assistant_model": "the draft is the second argument of SpeculativeDecoder",
        "assistant_tokenizer": "the draft's tokenizer is SpeculativeDecoder's draft_tokenizer",
        "prompt_lookup_num_tokens": "FLyConfig(drafter='ngram') looks drafts up in the text",
        "tokenizer": "leave it out: the tokenizer is SpeculativeDecoder's",
    },
    ("max_new_tokens", "stop", "temperature", "seed"),
    "leave it out, or decode with transformers' own generate",
)


def read_arguments(
    generation: Mapping[str, Any], vocab_size: int | None, whose: str, ways: Ways = WAYS
) -> dict[str, Any]:
    """The arguments as transformers' processors take them: plain numbers and lists.

    None is left as it is, whatever the argument: the generation config's does not hold then.

    Args:
        generation: by the names of `generate`.
        vocab_size: the target's; None where it is not known yet.
        whose: names the request in errors.
        ways: what they advise.

    Raises:
        RequestError: a value is impossible, or there is no such argument.
    """
    return {name: _read(name, each, vocab_size, whose, ways) for name, each in generation.items()}


def _read(name: str, value: Any, vocab_size: int | None, whose: str, ways: Ways) -> Any:
    plain = plain_value(value)
    if name not in SHAPING:
        neutral = OTHER_METHODS.get(name, ())
        if not any(plain is one or _equals(plain, one) for one in neutral):
            known = name in OTHER_METHODS or name in ways.by_name
            near = "" if known else did_you_mean(name, [*SHAPING, *ways.own])
            raise RequestError(
                f"{whose}: generation argument {name} is {quoted(value)}, which speculative "
                f"decoding does not have{near}",
                fix=ways.by_name.get(name, ways.otherwise),
            )
        return plain
    read, kind = SHAPING[name]
    found = None if plain is None else read(plain, _MOST if vocab_size is None else vocab_size)
    if plain is not None and found is None:
        ids = "" if vocab_size is None or "token id" not in kind else f" (0 to {vocab_size - 1})"
        raise RequestError(
            f"{whose}: {name} is {quoted(value)}, but it has to be {kind}{ids}",
            fix="give another value, or leave it out",
        )
    return found


def plain_value(value: Any) -> Any:
    """Tensors, arrays and numbers of their libraries as lists and numbers, at any depth."""
    if isinstance(value, (list, tuple)):
        plain = [plain_value(each) for each in value]
        return plain if isinstance(value, list) else tuple(plain)
    return value.tolist() if hasattr(value, "tolist") else value


def _equals(value: Any, neutral: Any) -> bool:
    """1 and 1.0 are one."""
    return isinstance(value, (bool, int, float)) and value == neutral
