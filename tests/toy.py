"""Toy language models whose logits are exact integer formulas (tests/golden/README.md), wrapped so
that the engine sees transformers models: they keep token ids as keys in whatever cache they are
given, and find their context through the mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from fly.engine.model.slots import SlotModel

GOLDEN = Path(__file__).parent / "golden" / "fly_official.json"
NO_TOKEN = 65535  # fills contexts that begin before the text
SCALE = 32768.0
MASK = (1 << 64) - 1
GOLDEN_RATIO, FIRST, SECOND = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


@cache
def golden() -> dict[str, Any]:
    """All traces."""
    return json.loads(GOLDEN.read_text())


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64, element by element."""
    with np.errstate(over="ignore"):
        x = x + GOLDEN_RATIO
        x = (x ^ (x >> np.uint64(30))) * FIRST
        x = (x ^ (x >> np.uint64(27))) * SECOND
        return x ^ (x >> np.uint64(31))


def mix_one(x: int) -> int:
    """splitmix64 of one number; an array of one would take 30 times as long."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Formula:
    """Logits of a toy target or draft after a context."""

    def __init__(self, toy: dict[str, int], *, draft: bool) -> None:
        """Read a case's toy parameters."""
        self.toy = toy
        self.draft = draft
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, history: list[int]) -> np.ndarray:
        """Logits [V] float32 of the next token."""
        n = self.toy["n"]
        context = tuple(([NO_TOKEN] * n + history)[-n:])
        if context not in self._known:
            self._known[context] = self._compute(context)
        return self._known[context]

    def _compute(self, context: tuple[int, ...]) -> np.ndarray:
        toy, size = self.toy, self.toy["V"]
        ids = np.arange(size, dtype=np.uint64)
        h = self._hash(toy["seed"], context)
        base = (mix(np.uint64(h) ^ ids) >> np.uint64(55)).astype(np.int64)
        for j, (offset, spread) in enumerate(((1024, 3072), (0, 2560), (0, 2560)), 1):
            r = mix_one(h ^ (256 * j))
            base[r % size] += offset + (r >> 40) % spread
        if toy["bigram"]:
            base[mix_one(mix_one(toy["seed"] ^ 0xB16A) ^ context[-1]) % size] += toy["bigram"]
        if self.draft:
            hd = self._hash(toy["draft_seed"], context)
            noise = (mix(np.uint64(hd) ^ ids) >> np.uint64(54)).astype(np.int64)
            base = base + ((noise * toy["noise"]) >> 10)
            if mix_one(hd ^ 1024) % 256 < toy["flip"]:
                base[mix_one(hd ^ 1280) % size] += 5120
        return ((128 * base + ids.astype(np.int64)) / SCALE).astype(np.float32)

    @staticmethod
    def _hash(seed: int, context: tuple[int, ...]) -> int:
        h = mix_one(seed)
        for token in context:
            h = mix_one(h ^ token)
        return h


class ToyConfig:
    """As much of a transformers configuration as the engine reads."""

    model_type = "toy"
    num_hidden_layers = 1
    max_position_embeddings = None

    def __init__(self, vocab_size: int) -> None:
        """Know the vocabulary's size."""
        self.vocab_size = vocab_size

    def get_text_config(self) -> ToyConfig:
        """There is no other part."""
        return self


class ToyModel:
    """A formula behind the interface of a transformers model."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, formula: Formula, eos_id: int) -> None:
        """Wrap a formula; answers end at `eos_id`."""
        self.formula = formula
        self.config = ToyConfig(formula.toy["V"])
        self.generation_config = GenerationConfig(eos_token_id=eos_id)
        self.forwards = 0

    def eval(self) -> ToyModel:
        """Nothing to switch."""
        return self

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
        use_cache: bool,
    ) -> SimpleNamespace:
        """Logits [B, n, V] from cached ids and mask alone."""
        self.forwards += 1
        keys = input_ids[:, None, :, None].float()
        seen, _ = past_key_values.update(keys, keys.clone(), 0)
        num_rows, width = input_ids.shape
        logits = np.empty((num_rows, width, self.config.vocab_size), dtype=np.float32)
        for row in range(num_rows):
            ids = seen[row, 0, :, 0].long()
            for query in range(width):
                visible = attention_mask[row, 0, query] == 0
                history = ids[visible].tolist()
                # The engine's promise: slot = position, and the query sees itself last.
                assert len(history) - 1 == int(position_ids[row, query])
                logits[row, query] = self.formula.logits(history)
        return SimpleNamespace(logits=torch.from_numpy(logits))

    __call__ = forward


class ToyTokenizer:
    """Writes ids as numbers."""

    eos_token_id = None
    all_special_ids: tuple[int, ...] = ()
    added_tokens_decoder: Mapping[int, Any] = MappingProxyType({})

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Ids with a blank behind each."""
        return "".join(f"{token} " for token in ids)


def toy_pair(toy: dict[str, int], eos_id: int) -> tuple[SlotModel, SlotModel]:
    """Target and draft of a case, on slot caches: a toy cannot be probed, since it finds its
    context through the mask alone.
    """
    target, draft = (formula(toy, draft=is_draft) for is_draft in (False, True))
    models: list[Any] = [ToyModel(target, eos_id), ToyModel(draft, eos_id)]
    return SlotModel(models[0]), SlotModel(models[1])


FORMULAS: dict[tuple[object, ...], Formula] = {}


def formula(toy: dict[str, int], *, draft: bool) -> Formula:
    """A case's formula; what it computed once is kept for the other tests."""
    return FORMULAS.setdefault((*toy.values(), draft), Formula(toy, draft=draft))
