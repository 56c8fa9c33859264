"""Checks of requests before anything is decoded, and rows per batch."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from fly.config.batch_size import check_batch_size, num_searches
from fly.engine.request import Request, plain_value, read_arguments
from fly.errors import ConfigError, FLyWarning, RequestError, quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import Setup
    from fly.drafting import DrafterSpec

# Below, logits divided by it overflow.
LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class RequestCheck:
    """Checks of requests against models, rule and drafter."""

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
    """Refuse what no tokenizer can read, as half of a character that JSON or Python wrote out.

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


FIRST_ROWS = 8
TRIAL_ROUNDS = 5
# A doubled batch must advance rows this much faster: below, it only costs memory.
WORTHWHILE = 1.1
MAX_ROWS = 64  # of a search, unless set otherwise; lm-eval's default too


class BatchSize:
    """The rows that may be decoded at once.

    `auto` starts small and doubles as long as that advances rows faster per second; `auto:N`
    searches anew each time another Nth of the queue is done, since prompts become shorter.
    """

    def __init__(self, wanted: int | str, max_rows: int = MAX_ROWS) -> None:
        """Read "auto", "auto:N" or a number of rows; `max_rows` bounds a search.

        Raises:
            ConfigError: it is none of these.
        """
        self.wanted, self.max_wanted = wanted, max_rows
        wanted = check_batch_size(wanted)
        self._max_rows = max(1, max_rows)
        self._searches = num_searches(wanted)
        self.rows = min(FIRST_ROWS, self._max_rows) if isinstance(wanted, str) else wanted
        self._queue = 0
        self._searched = 0
        self._best: tuple[int, float] | None = None  # rows, rows per second
        self._seconds: list[float] = []
        self._is_searching = False

    def start(self, num_requests: int) -> None:
        """A new queue."""
        self._queue = num_requests
        self._searched = 0

    def note(self, num_rows: int, num_waiting: int, seconds: float) -> None:
        """One round of `num_rows` took this long, while `num_waiting` requests had no row."""
        done = self._queue - num_waiting
        if (
            self._searched < self._searches
            and done * self._searches >= self._searched * self._queue
        ):
            self._searched += 1
            self._is_searching = True
            self._best, self._seconds = None, []
        if not self._is_searching or num_rows != self.rows:
            return
        self._seconds.append(seconds)
        if len(self._seconds) == TRIAL_ROUNDS:
            self._decide(num_rows / median(self._seconds))
            self._seconds = []

    def _decide(self, rate: float) -> None:
        if self._best is not None and rate < WORTHWHILE * self._best[1]:
            self.rows = self._best[0]
            self._is_searching = False
            return
        self._best = (self.rows, rate)
        self._is_searching = self.rows < self._max_rows
        self.rows = min(2 * self.rows, self._max_rows)

    def halve(self, num_rows: int) -> None:
        """`num_rows` did not fit: at most half as many from now on."""
        self.rows = self._max_rows = max(1, num_rows // 2)
        self._is_searching = False


def compare_ids(
    target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase
) -> tuple[list[int], dict[int, tuple[str, str]]]:
    """The ids that both have, and those among them that mean two strings."""
    target_strings = {index: token for token, index in target.get_vocab().items()}
    draft_strings = {index: token for token, index in draft.get_vocab().items()}
    common = sorted(target_strings.keys() & draft_strings.keys())
    pairs = {index: (target_strings[index], draft_strings[index]) for index in common}
    return common, {index: pair for index, pair in pairs.items() if pair[0] != pair[1]}


def share_ids(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase | None) -> bool:
    """Whether the draft's ids are the target's; None stands for the target's own tokenizer.  Ids
    that only one of them has are allowed.
    """
    if draft is None or draft is target:
        return True
    common, differing = compare_ids(target, draft)
    return bool(common) and not differing


def check_draft(
    drafter: DrafterSpec, *, has_draft: bool, has_tokenizer: bool, shares_ids: bool
) -> None:
    """Refuse a drafter whose draft model or tokenizer is missing, or that takes the draft's ids for
    the target's where they are not.

    Raises:
        ConfigError: it is so.
    """
    traits = drafter.traits
    if not traits.needs_model:
        return
    name = drafter.name
    if not has_draft:
        raise ConfigError(
            f"drafter {name!r} needs a draft model, and none was given",
            fix="give a draft, or choose drafter 'ngram' or use_sd: false",
        )
    if traits.own_tokenizer and not has_tokenizer:
        raise ConfigError(
            f"drafter {name!r} translates between two tokenizers, and the draft's was not given",
            fix="give draft_tokenizer, the tokenizer of the draft model, or choose drafter 'model' "
            "if it is the target's",
        )
    if not traits.own_tokenizer and not shares_ids:
        raise ConfigError(
            f"drafter {name!r} takes the draft's ids for the target's, but their tokenizers differ",
            fix="set dual_tok: true, or choose drafter 'other_tokenizer' or 'ngram'",
        )


def warn_of_idle_translation(drafter: DrafterSpec, shares_ids: bool) -> None:
    """Warn where a drafter translates between two tokenizers that are one."""
    if shares_ids and drafter.traits.own_tokenizer:
        warnings.warn(
            f"target and draft have the same tokenizer, so {drafter.name!r} has nothing to "
            "translate: drafter 'model' is faster",
            FLyWarning,
            stacklevel=3,  # whoever made the decoder
        )
