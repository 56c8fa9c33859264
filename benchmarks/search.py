"""The fastest batch sizes, drafter at batch 1 and K of native, greedy and sampled, found on
problems of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from blocks import Method, Name, Pair, Prompts, engine, interleave, plain_generate

BATCHES = (8, 16, 32, 64, 128)  # besides 1, of which fewer problems tell enough
SAMPLED_BATCHES = (64, 128)
FLY_K = 15  # of demo.json
SOME_K = (6, 8, 10, 12, 15)
TEMPERATURE = 0.8
NUM_ALONE = 40


@dataclass(frozen=True)
class Setting:
    """A batch size and how the engine drafts and accepts; window and gate are the defaults."""

    batch_size: int
    spd_k: int = FLY_K
    acceptance: str = "fly"
    drafter: str = "model"
    temperature: float = 0.0

    def method(self, pair: Pair) -> Method:
        """The engine with it."""
        config = {"spd_k": self.spd_k, "acceptance": self.acceptance, "drafter": self.drafter}
        return engine(pair, self.batch_size, temperature=self.temperature, **config)


@dataclass(frozen=True)
class Best:
    """The fastest settings."""

    generate: int  # batch size
    fly: Setting
    native: Setting  # at FLy's batch, with the K that suits it: a strict token ends a round earlier
    alone: Setting  # FLy at batch 1
    generate_sampled: int  # batch size
    native_sampled: Setting


def search(pair: Pair, prompts: Prompts) -> tuple[Best, dict[str, dict[str, float]]]:
    """The fastest settings, and all speeds in tokens/s by setting."""
    halves = [prompts[0::2], prompts[1::2]]
    singles = [[prompt] for prompt in prompts[:NUM_ALONE]]

    def speeds(methods: Mapping[Name, Method], slices: Prompts = halves) -> dict[Name, float]:
        timed = interleave(methods, slices)
        return {name: each.tokens_per_s for name, each in timed.items()}

    def find(settings: Iterable[Setting], slices: Prompts = halves) -> dict[Setting, float]:
        return speeds({each: each.method(pair) for each in settings}, slices)

    generate = speeds({size: plain_generate(pair, size) for size in BATCHES})
    generate |= speeds({1: plain_generate(pair, 1)}, singles)
    alone = find([Setting(1, drafter=name) for name in ("model", "multilevel")], singles)
    fly = find(map(Setting, BATCHES)) | alone
    size = fastest(fly).batch_size
    native = find([Setting(size, k, "native") for k in SOME_K])
    drawn = speeds({rows: sampling_generate(pair, rows) for rows in BATCHES})
    sampled = find(
        [
            Setting(rows, k, "native", temperature=TEMPERATURE)
            for rows in SAMPLED_BATCHES
            for k in SOME_K
        ]
    )
    best = Best(
        fastest(generate),
        fastest(fly),
        fastest(native),
        fastest(alone),
        fastest(drawn),
        fastest(sampled),
    )
    names = ("generate", "fly", "native", "generate_sampled", "native_sampled")
    found: list[Mapping[Any, float]] = [generate, fly, native, drawn, sampled]
    tables = zip(names, found, strict=True)
    return best, {name: {str(k): v for k, v in table.items()} for name, table in tables}


def sampling_generate(pair: Pair, batch_size: int) -> Method:
    """`generate` that draws."""
    return plain_generate(pair, batch_size, do_sample=True, temperature=TEMPERATURE)


def fastest(found: Mapping[Name, float]) -> Name:
    """The name of the highest speed."""
    return max(found, key=lambda name: found[name])
