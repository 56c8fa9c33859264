"""The ways of decoding that are compared, each with its tokens and its whole wall time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from fly.config import FLyConfig
from fly.decoding import SpeculativeDecoder, Statistics
from fly.demo import DRAFT_PATH, TARGET_PATH

MAX_NEW_TOKENS = 192

Answers = list[list[int]]  # ids of each answer, the end token included


@dataclass(frozen=True)
class Timed:
    """What a method answered to some prompts, and how long it took."""

    answers: Answers
    seconds: float
    statistics: Statistics | None = None

    def __add__(self, other: Timed) -> Timed:
        """Both, one after the other."""
        counts = [timed.statistics for timed in (self, other) if timed.statistics]
        statistics = sum(counts, Statistics()) if counts else None
        return Timed(self.answers + other.answers, self.seconds + other.seconds, statistics)

    @property
    def num_tokens(self) -> int:
        """Answer tokens."""
        return sum(map(len, self.answers))

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens by wall time, prefill included."""
        return self.num_tokens / self.seconds


def total(blocks: Sequence[Mapping[str, Timed]], name: str) -> Timed:
    """All that a method did."""
    first, *rest = (block[name] for block in blocks)
    return sum(rest, first)


class Pair:
    """The embedded pair in float32."""

    def __init__(self) -> None:
        """Load both models and the tokenizer."""
        self.tokenizer = AutoTokenizer.from_pretrained(TARGET_PATH, padding_side="left")
        self.target = load(TARGET_PATH)
        self.draft = load(DRAFT_PATH)
        self.eos_id = self.tokenizer.eos_token_id

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids."""
        return list(self.tokenizer(prompt).input_ids)

    def decode(self, answer: Sequence[int]) -> str:
        """An answer's text."""
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))


def load(path: object) -> PreTrainedModel:
    """A model in float32."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


Prompts = Sequence[list[int]]
Method = Callable[[Prompts], Timed]
Name = TypeVar("Name")


def interleave(
    methods: Mapping[Name, Method], slices: Sequence[Prompts], turn: int = 0
) -> dict[Name, Timed]:
    """Run all methods over slice after slice, in an order that rotates from `turn`, so that drift
    of the machine hits all alike; sums over the slices.
    """
    names = list(methods)
    sums: dict[Name, Timed] = {}
    for index, prompts in enumerate(slices, start=turn):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            timed = methods[name](prompts)
            sums[name] = sums[name] + timed if name in sums else timed
    return {name: sums[name] for name in names}


def engine(
    pair: Pair,
    batch_size: int,
    *,
    temperature: float = 0.0,
    share_prefixes: bool = True,
    **settings: object,
) -> Method:
    """Our engine with these settings."""
    decoder = SpeculativeDecoder(
        pair.target,
        pair.draft,
        pair.tokenizer,
        FLyConfig(**settings),
        batch_size=batch_size,
        share_prefixes=share_prefixes,
    )

    def run(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        results = decoder.generate(prompts, max_new_tokens=MAX_NEW_TOKENS, temperature=temperature)
        seconds = time.perf_counter() - begin
        pooled = sum((result.statistics for result in results), Statistics())
        return Timed([result.token_ids for result in results], seconds, pooled)

    return run


def anew(make: Callable[[], Method]) -> Method:
    """A method that is made for every call, outside its time: nothing is held from the last."""
    return lambda prompts: make()(prompts)


def plain_generate(pair: Pair, batch_size: int, temperature: float = 0.0) -> Method:
    """The target's own `generate`, prompts sorted by length and padded on the left, in batches as
    even as they can be: a small last one would be slow.
    """
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {}

    def run(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        answers: Answers = [[] for _ in prompts]
        num_batches = math.ceil(len(order) / batch_size)
        for number in range(num_batches):
            begins, ends = (len(order) * n // num_batches for n in (number, number + 1))
            chosen = order[begins:ends]
            found = generate_batch(pair, [prompts[index] for index in chosen], **sampling)
            for index, answer in zip(chosen, found, strict=True):
                answers[index] = answer
        return Timed(answers, time.perf_counter() - begin)

    return run


def assisted_generate(pair: Pair, num_assistant_tokens: int | None) -> Method:
    """Transformers' assisted generation, which knows batch 1 only.

    None leaves its defaults, which adapt the number of tokens; a number fixes it, and switches off
    the confidence threshold that would cut it short.
    """

    def run(prompts: Prompts) -> Timed:
        chosen = pair.draft.generation_config
        if num_assistant_tokens is not None:
            chosen.num_assistant_tokens = num_assistant_tokens
            chosen.num_assistant_tokens_schedule = "constant"
            chosen.assistant_confidence_threshold = 0.0
        begin = time.perf_counter()
        answers = [
            generate_batch(pair, [prompt], assistant_model=pair.draft)[0] for prompt in prompts
        ]
        seconds = time.perf_counter() - begin
        if num_assistant_tokens is not None:
            pair.draft.generation_config = type(chosen).from_pretrained(DRAFT_PATH)
        return Timed(answers, seconds)

    return run


def generate_batch(pair: Pair, prompts: Prompts, **options: object) -> Answers:
    """One call of `generate`; answers end with their end token."""
    width = max(map(len, prompts))
    ids = [[pair.tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.inference_mode():
        output = pair.target.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=MAX_NEW_TOKENS,
            **({"do_sample": False} | options),
        )
    return [until_end(answer, pair.eos_id) for answer in output[:, width:].tolist()]


def until_end(answer: list[int], eos_id: int) -> list[int]:
    """Cut behind the first end token."""
    return answer[: answer.index(eos_id) + 1] if eos_id in answer else answer
