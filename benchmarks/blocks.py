"""The block runner of all benchmarks of speed: methods take turns over the same prompts, in an
order that rotates, so that drift of the machine hits all alike; whole wall time, prefill included.
Ratios and their intervals are those of `fly compare`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from fly.config import FLyConfig
from fly.demo import DRAFT_PATH, TARGET_PATH, weight_hashes
from fly.demo.problems import Problem, heldout
from fly.engine import Result, SpeculativeDecoder, Statistics
from fly.stats.speed import speed_ratio
from fly.workbench import environment
from fly.workbench.divergence import compare

MAX_NEW_TOKENS = 192
RESULTS = Path(__file__).parent / "results"

Answers = list[list[int]]  # ids of each answer, the end token included
Prompts = Sequence[Any]  # ids, or what a method knows to read
Name = TypeVar("Name")


@dataclass(frozen=True)
class Timed:
    """What a method answered to some prompts, and how long it took."""

    answers: Answers
    seconds: float
    statistics: Statistics = field(default_factory=Statistics)

    def __add__(self, other: Timed) -> Timed:
        """Both, one after the other."""
        return Timed(
            self.answers + other.answers,
            self.seconds + other.seconds,
            self.statistics + other.statistics,
        )

    @property
    def num_tokens(self) -> int:
        """Answer tokens."""
        return sum(map(len, self.answers))

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens by wall time, prefill included."""
        return self.num_tokens / self.seconds


Method = Callable[[Prompts], Timed]
Block = Mapping[str, Timed]  # by method


class Pair:
    """The embedded pair in float32."""

    def __init__(self, **settings: Any) -> None:
        """Load both models and the tokenizer.

        Args:
            settings: of FLyConfig, for all its decoders that are not given others.
        """
        self.settings = settings
        self.tokenizer: Any = AutoTokenizer.from_pretrained(TARGET_PATH, padding_side="left")
        self.target = load(TARGET_PATH)
        self.draft = load(DRAFT_PATH)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids."""
        return list(self.tokenizer(prompt).input_ids)

    def decode(self, answer: Sequence[int]) -> str:
        """An answer's text."""
        return str(self.tokenizer.decode(list(answer), skip_special_tokens=True))

    def decoder(
        self, batch_size: int, *, share_prefixes: bool = True, **settings: Any
    ) -> SpeculativeDecoder:
        """Our engine with these settings."""
        return SpeculativeDecoder(
            self.target,
            self.draft,
            self.tokenizer,
            FLyConfig(**(self.settings | settings)),
            batch_size=batch_size,
            share_prefixes=share_prefixes,
        )


def load(path: str | Path) -> PreTrainedModel:
    """A model in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.eval()
    return model


def problems(count: int, seed: int) -> list[Problem]:
    """Held-out problems of both tasks by turns."""
    kinds = [heldout(kind, count // 2, seed) for kind in ("arithmetic", "code")]
    return [problem for both in zip(*kinds, strict=True) for problem in both]


def timed(decode: Callable[[Prompts], Sequence[Result]]) -> Method:
    """What answers prompts, as a method.  Compiling, at its first call, is no part of its time."""

    def run(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        results = decode(prompts)
        seconds = time.perf_counter() - begin
        pooled = sum((result.statistics for result in results), Statistics())
        answers = [result.token_ids for result in results]
        return Timed(answers, seconds - pooled.seconds_compile, pooled)

    return run


def engine(pair: Pair, batch_size: int, *, temperature: float = 0.0, **settings: Any) -> Method:
    """Our engine with these settings."""
    decoder = pair.decoder(batch_size, **settings)
    options: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": temperature}
    return timed(lambda prompts: decoder.generate(prompts, **options))


def plain_generate(pair: Pair, batch_size: int, **options: object) -> Method:
    """The target's own `generate`, prompts sorted by length and padded on the left, in batches as
    even as they can be: a small last one would be slow.
    """

    def run(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        answers: Answers = [[] for _ in prompts]
        num_batches = math.ceil(len(order) / batch_size)
        for number in range(num_batches):
            first, last = (len(order) * n // num_batches for n in (number, number + 1))
            chosen = order[first:last]
            found = generate_batch(pair, [prompts[index] for index in chosen], options)
            for index, answer in zip(chosen, found, strict=True):
                answers[index] = answer
        return Timed(answers, time.perf_counter() - begin)

    return run


def generate_batch(pair: Pair, prompts: Prompts, options: Mapping[str, Any]) -> Answers:
    """One call of `generate`; answers end with their end token."""
    padded = pair.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
    with torch.inference_mode():
        generate: Any = pair.target.generate
        usual = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS}
        output = generate(**padded, **(usual | dict(options)))
    eos_id = pair.tokenizer.eos_token_id
    answers = output[:, padded.input_ids.shape[1] :].tolist()
    return [one[: one.index(eos_id) + 1] if eos_id in one else one for one in answers]


def interleave(
    methods: Mapping[Name, Method], slices: Sequence[Prompts], turn: int = 0
) -> dict[Name, Timed]:
    """Run all methods over slice after slice, in an order that rotates from `turn`; sums over the
    slices.
    """
    names = list(methods)
    sums: dict[Name, Timed] = {}
    for index, prompts in enumerate(slices, start=turn):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            done = methods[name](prompts)
            sums[name] = sums[name] + done if name in sums else done
    return {name: sums[name] for name in names}


def run_blocks(
    methods: Mapping[str, Method], prompts: Prompts, num_blocks: int, size: int = 1
) -> list[dict[str, Timed]]:
    """Blocks of all methods over the same prompts, `size` at a time, after a warm-up."""
    for method in methods.values():
        method(prompts[::num_blocks][:size])
    blocks = []
    for turn, own in enumerate(dealt(prompts, num_blocks)):
        slices = [own[start : start + size] for start in range(0, len(own), size)]
        blocks.append(interleave(methods, slices, turn))
    return blocks


def dealt(prompts: Prompts, num_blocks: int) -> list[Prompts]:
    """Each block's prompts."""
    return [prompts[turn::num_blocks] for turn in range(num_blocks)]


def total(blocks: Sequence[Block], name: str) -> Timed:
    """All that a method did."""
    first, *rest = (block[name] for block in blocks)
    return sum(rest, first)


def tokens_and_seconds(blocks: Sequence[Block]) -> list[dict[str, list[float]]]:
    """What ratios are computed from, by method."""
    return [
        {name: [one.num_tokens, one.seconds] for name, one in block.items()} for block in blocks
    ]


def same_texts(
    model: PreTrainedModel, prompts: Prompts, references: Answers, answers: Answers
) -> dict[str, int]:
    """How many answers are equal, tie and different; the references are the model's own."""
    each = zip(prompts, references, answers, strict=True)
    return dict(Counter(compare(model, *one) for one in each))


Share = TypeVar("Share")


def share_out(
    answer: Callable[[Prompts], Share], prompts: Prompts, num_processes: int
) -> list[Share]:
    """Every process's share, which is not timed; `answer` is a function of a module, and sets its
    threads.
    """
    shares = [list(prompts[index::num_processes]) for index in range(num_processes)]
    # A fork of a process whose matrix products had threads may hang.
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(answer, shares))


def ratio(blocks: Sequence[Block], method: str, baseline: str) -> dict[str, Any]:
    """Tokens per second of one method by another's."""
    columns = [
        [getattr(block[name], key) for block in blocks]
        for name in (method, baseline)
        for key in ("num_tokens", "seconds")
    ]
    return asdict(speed_ratio(*columns))


def time_ratio(blocks: Sequence[Block], numerator: str, denominator: str) -> dict[str, Any]:
    """Seconds of one method by another's."""
    once = [1.0] * len(blocks)
    above, below = ([block[name].seconds for block in blocks] for name in (numerator, denominator))
    return asdict(speed_ratio(once, below, once, above))


def bar(found: dict[str, Any], wanted: float) -> dict[str, Any]:
    """The same with its bar, which is met when the lower end of the ratio's interval meets it."""
    low = found["ratio"]["low"]
    return found | {"bar": {"at_least": wanted, "met": low is not None and low >= wanted}}


def shown(found: Mapping[str, Any]) -> str:
    """A ratio with its interval, the A/A's beside it, and its bar."""
    text = interval(found["ratio"])
    text += f"; A/A {interval(found['a_a'])}" if "a_a" in found else ""
    return text + (f"; at least {found['bar']['at_least']}" if "bar" in found else "")


def interval(ratio: Mapping[str, Any]) -> str:
    """An estimate with its interval."""
    ends = [ratio["low"], ratio["high"]]
    text = f"{ratio['estimate']:.3f}"
    return text if None in ends else text + f" ({ends[0]:.3f} to {ends[1]:.3f})"


def parser(doc: str | None, name: str, *, threads: int = 1) -> argparse.ArgumentParser:
    """The command line that all have."""
    options = argparse.ArgumentParser(description=doc)
    options.add_argument("--threads", type=int, default=threads)
    options.add_argument("--output", type=Path, default=RESULTS / name)
    return options


def parsed(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; torch gets its threads."""
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def save(path: Path, report: Mapping[str, object], *, embedded: bool = True) -> None:
    """Write a report behind what a reader needs to judge or repeat it."""
    weights = {"weights_sha256": weight_hashes()} if embedded else {}
    whole = environment.describe() | weights | dict(report)
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
