"""The fastest batch sizes, drafter at batch 1 and K of native, greedy and sampled, found on
problems of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blocks import Method, Name, Pair, Prompts, Timed, engine, interleave, plain_generate

BATCHES = (8, 16, 32, 64, 128)  # besides 1, of which fewer problems tell enough
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
    generate = {size: plain_generate(pair, size) for size in BATCHES}
    plain = speeds(interleave(generate, halves))
    plain |= speeds(interleave({1: plain_generate(pair, 1)}, singles))

    def find(settings: Iterable[Setting], slices: Sequence[Prompts]) -> dict[Setting, float]:
        return speeds(interleave({each: each.method(pair) for each in settings}, slices))

    alone = find((Setting(1, drafter=drafter) for drafter in ("model", "multilevel")), singles)
    fly = find(map(Setting, BATCHES), halves) | alone
    size = fastest(fly).batch_size
    native = find((Setting(size, k, "native") for k in SOME_K), halves)
    drawn = speeds(interleave({rows: sampling_generate(pair, rows) for rows in BATCHES}, halves))
    sampled = find(
        (Setting(rows, k, "native", temperature=TEMPERATURE) for rows in (64, 128) for k in SOME_K),
        halves,
    )
    best = Best(
        fastest(plain),
        fastest(fly),
        fastest(native),
        fastest(alone),
        fastest(drawn),
        fastest(sampled),
    )
    tables = {
        "generate": plain,
        "fly": fly,
        "native": native,
        "generate_sampled": drawn,
        "native_sampled": sampled,
    }
    return best, {name: {str(k): v for k, v in table.items()} for name, table in tables.items()}


def sampling_generate(pair: Pair, batch_size: int) -> Method:
    """`generate` that draws."""
    return plain_generate(pair, batch_size, do_sample=True, temperature=TEMPERATURE)


def speeds(timed: Mapping[Name, Timed]) -> dict[Name, float]:
    """Tokens per second."""
    return {name: each.tokens_per_s for name, each in timed.items()}


def fastest(found: Mapping[Name, float]) -> Name:
    """The name of the highest speed."""
    return max(found, key=lambda name: found[name])
