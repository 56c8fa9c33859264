"""`Request`, one prompt to continue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
