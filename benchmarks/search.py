"""Which batch size, K and drafter are fastest, found on problems of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from methods import Method, Name, Pair, Prompts, Timed, engine, interleave, plain_generate

BATCHES = (8, 16, 32, 64, 128)  # besides 1, of which fewer problems tell enough
SOME_K = (8, 10, 12, 15, 20, 25)
FIRST_K = 15  # of the batch search; the K of demo.json
NUM_ALONE = 48


@dataclass(frozen=True)
class Setting:
    """A batch size and how the engine drafts and accepts; window and gate are the defaults."""

    batch_size: int
    spd_k: int = FIRST_K
    acceptance: str = "fly"
    drafter: str = "model"

    def method(self, pair: Pair) -> Method:
        """The engine with it."""
        config = {"spd_k": self.spd_k, "acceptance": self.acceptance, "drafter": self.drafter}
        return engine(pair, self.batch_size, **config)


@dataclass(frozen=True)
class Best:
    """The fastest settings."""

    generate: int  # batch size
    fly: Setting
    native: Setting  # at FLy's batch, with the K that suits native acceptance
    alone: Setting  # FLy at batch 1


def search(pair: Pair, prompts: Prompts) -> tuple[Best, dict[str, dict[str, float]]]:
    """The fastest settings, and all speeds in tokens/s by setting."""
    halves = [prompts[0::2], prompts[1::2]]
    singles = [[prompt] for prompt in prompts[:NUM_ALONE]]
    generate = {size: plain_generate(pair, size) for size in BATCHES}
    plain = speeds(interleave(generate, halves))
    plain |= speeds(interleave({1: plain_generate(pair, 1)}, singles))

    def find(settings: Iterable[Setting], slices: Sequence[Prompts]) -> dict[Setting, float]:
        return speeds(interleave({each: each.method(pair) for each in settings}, slices))

    drafters = ("model", "multilevel")
    alone = find((Setting(1, k, "fly", drafter) for k in SOME_K for drafter in drafters), singles)
    batches = find(map(Setting, BATCHES), halves)
    size = fastest(alone | batches).batch_size
    fly = find((Setting(size, k) for k in SOME_K), halves)
    native = find((Setting(size, k, "native") for k in SOME_K), halves)
    best = Best(fastest(plain), fastest(fly), fastest(native), fastest(alone))
    tables = {
        "generate, by batch": plain,
        "fly at batch 1": alone,
        "fly, by batch": batches,
        "fly, by K": fly,
        "native, by K": native,
    }
    return best, {name: {str(k): v for k, v in table.items()} for name, table in tables.items()}


def speeds(timed: Mapping[Name, Timed]) -> dict[Name, float]:
    """Tokens per second."""
    return {name: each.tokens_per_s for name, each in timed.items()}


def fastest(found: Mapping[Name, float]) -> Name:
    """The name of the highest speed."""
    return max(found, key=lambda name: found[name])
