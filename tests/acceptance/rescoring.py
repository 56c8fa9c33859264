"""What rules mean, position by position and in plain numbers, and texts scored again from scratch:
one forward over the whole text and no cache.

A rule that loosens where a condition holds has its entry in SLACK; the settings with which it
loosens small random models often are in LOOSE.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from fly.acceptance import Reason, Rule, rules
from fly.acceptance.margin import SHORT_RATIO
from fly.config import FLyConfig
from fly.engine import Request, Result, SpeculativeDecoder
from fly.registry import Registry
from tests.models import blurred, prompts, tiny, tiny_tokenizer

TOLERANCE = 1e-4  # between a forward in a batch with a cache and one without


@dataclass(frozen=True)
class View:
    """A proposed token as the rules see it."""

    drafted: int
    logits: list[float]  # [V] raw, the target's
    p: list[float]  # [V] behind temperature; greedy: at 1
    q: list[float]  # [V] the draft's, likewise
    place: int  # in the proposal
    native: list[bool]  # [K] of the whole proposal

    @property
    def num_after(self) -> int:
        """Proposed tokens behind this one."""
        return len(self.native) - 1 - self.place

    def followers_match(self, count: int) -> bool:
        """The next `count` are there, and native matches."""
        behind = self.native[self.place + 1 : self.place + 1 + count]
        return len(behind) == count and all(behind)


def from_top(table: list[float], token: int, count: int | None) -> float:
    """How far a token is above the last of the `count` largest; below 0 it is none of them."""
    least = -math.inf if count is None else sorted(table)[-min(count, len(table))]
    return table[token] - least


def margin(rule: Any, view: View) -> float:
    """Three spellings, and llama.cpp's window."""
    z, p, d = view.logits, view.p, view.drafted
    if rule.ratio is not None:
        slack = min(p[d] - rule.ratio * max(p), from_top(p, d, rule.top_n))
    elif rule.max_difference is not None:
        slack = min(p[d] - (max(p) - rule.max_difference), from_top(p, d, rule.top_n))
    else:
        slack = min(rule.max_gap - (max(z) - z[d]), from_top(z, d, rule.top_n))
    if rule.window is None:
        return slack
    if len(view.native) <= rule.window:
        first, second = sorted(z)[-1:-3:-1]
        return min(slack, SHORT_RATIO - math.exp(first - second))
    is_followed = view.num_after >= rule.window and view.followers_match(rule.window)
    return slack if is_followed else -math.inf


def typical(rule: Any, view: View) -> float:
    """Against the smaller of two bounds."""
    entropy = -sum(p * math.log(p) for p in view.p if p > 0)
    return view.p[view.drafted] - min(rule.epsilon, rule.delta * math.exp(-entropy))


def mars(rule: Any, view: View) -> float:
    """The second of two logits, the first above 0."""
    z, d = view.logits, view.drafted
    return min(max(z), z[d] - rule.threshold * max(z), from_top(z, d, 2))


def divergence(rule: Any, view: View) -> float:
    """One of three distances."""

    def relative(p: list[float], q: list[float]) -> float:
        pairs = [(a, b) for a, b in zip(p, q, strict=True) if a > 0]
        return sum(math.inf if b == 0 else a * math.log(a / b) for a, b in pairs)

    p, q = view.p, view.q
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    found = {
        "js": (relative(p, middle) + relative(q, middle)) / 2,
        "kl": relative(p, q),
        "tv": sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
    }
    return rule.threshold - found[rule.divergence]


def fly(rule: Any, view: View) -> float:
    """Unsure by the three likeliest of the raw logits, and followed by matches."""
    largest = sorted(view.logits)[-3:]
    total = sum(math.exp(z - largest[-1]) for z in view.logits)
    shares = [math.exp(z - largest[-1]) / total for z in largest]
    entropy = -sum(p * math.log(p) for p in shares)
    is_followed = view.num_after >= rule.window and view.followers_match(rule.inspected)
    return entropy - rule.threshold if is_followed else -math.inf


# By how much a rule's condition holds; below 0 it does not.
SLACK: dict[str, Callable[[Any, View], float]] = {
    "margin": margin,
    "typical": typical,
    "relaxed_top_n": margin,
    "mars": mars,
    "cascade": margin,
    "divergence": divergence,
    "fly": fly,
}
FLY = {"win_len": 2, "entropy_thre": 0.2}
LOOSE: dict[str, list[dict[str, Any]]] = {  # settings of FLyConfig
    "margin": [
        {"acceptance_settings": {"max_gap": 1.0}},
        {"acceptance_settings": {"ratio": 0.4, "top_n": 3}},
        {"acceptance_settings": {"max_gap": 2.0, "window": 2}},
    ],
    "typical": [{}],
    "relaxed_top_n": [{}],
    "mars": [{"acceptance_settings": {"threshold": 0.8}}],
    "cascade": [{"acceptance_settings": {"alpha": 0.7}}],
    "divergence": [
        {"acceptance_settings": {"divergence": kind, "threshold": threshold}}
        for kind, threshold in (("js", 0.1), ("kl", 0.5), ("tv", 0.3))
    ],
    "fly": [FLY],
}


def is_written(registry: Registry[Any], name: str) -> bool:
    """Whether there is a class behind a name: it came from outside, or its module exists."""
    entry = registry._entries[name]
    module = entry.partition(":")[0] if isinstance(entry, str) else ""
    return not module or importlib.util.find_spec(module) is not None


def written_rules() -> list[str]:
    """All names of rules that have a class."""
    return [name for name in rules if is_written(rules, name)]


def config_of(name: str, **settings: Any) -> FLyConfig:
    """A rule's configuration for small models."""
    return FLyConfig(**{"acceptance": name, "spd_k": 5} | settings)


def temperature_of(name: str) -> float:
    """One at which the rule works; 0 if it can."""
    return 1.0 if rules.get(name).temperatures == "sampled" else 0.0


@functools.cache
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A target, and a draft that agrees with it often."""
    target = tiny("llama")
    return target, blurred(target, 0.06)


@functools.cache
def base() -> SpeculativeDecoder:
    """What all decoders here are made of: the pair is probed once."""
    return SpeculativeDecoder(*pair(), tiny_tokenizer(), config_of("native"))


def requests(
    count: int = 8, budget: int = 30, temperature: float = 0.0, longest: int = 40
) -> list[Request]:
    """Prompts of many lengths.  All tokens can be drawn."""
    shaping = {"top_k": 0} if temperature else {}
    return [
        Request(ids, budget, temperature=temperature, seed=index, generation=shaping)
        for index, ids in enumerate(prompts(count, longest))
    ]


def decode(
    config: FLyConfig, asked: Sequence[Request], batch_size: int = 4
) -> tuple[Rule, list[Result]]:
    """The rule, and its answers with their rounds; rows are refilled where there are fewer."""
    decoder = base().with_config(config, batch_size=batch_size, record_rounds=True)
    found = dict(decoder.decode(asked))
    return decoder.rule, [found[index] for index in range(len(asked))]


@torch.inference_mode()
def tables(text: Sequence[int], proposal: Sequence[int], temperature: float) -> list[Any]:
    """Over a proposal: the target's raw logits, p and q, [K][V] each."""
    found = []
    for model in pair():
        logits = model(torch.tensor([[*text, *proposal]])).logits[0, len(text) - 1 : -1]
        found.append(logits.float())
    target, draft = found
    scale = temperature or 1.0
    return [t.tolist() for t in (target, (target / scale).softmax(-1), (draft / scale).softmax(-1))]


def loosened(request: Request, result: Result) -> Iterator[View]:
    """Every position that the rule loosened, behind a round's first refusal too.  At temperature 0
    native decisions are checked as well."""
    text = list(request.prompt_ids)
    for record in result.rounds or []:
        if record.draft_ids:
            z, p, q = tables(text, record.draft_ids, request.temperature)
            if not request.temperature:
                best = [row.index(max(row)) for row in z]
                matches = [a == b for a, b in zip(record.draft_ids, best, strict=True)]
                assert record.native == matches
            for place, (token, reason) in enumerate(
                zip(record.draft_ids, record.reasons, strict=True)
            ):
                if reason == Reason.LOOSE:
                    yield View(token, z[place], p[place], q[place], place, record.native)
        text += record.emitted_ids
