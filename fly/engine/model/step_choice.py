"""The choice whether a run's forwards are compiled, and which steps it needs.  `auto` compiles
where that pays by what was measured, or is done already."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fly.engine.model.aot import AotBackend
from fly.engine.model.base import CausalModel
from fly.engine.model.compiling import make_steps, module_for, why_eager
from fly.engine.model.graph import Backend, StepKind
from fly.engine.model.packed import packed_weights
from fly.engine.model.slots import SlotModel
from fly.engine.model.step_packages import StepPackages
from fly.errors import FLyWarning

if TYPE_CHECKING:
    from fly.config import Setup

# Answers mostly end before their budgets do.
EXPECTED_SHARE = 0.25
# One step of a model with two layers took 11 to 15 s, with eight 17 to 25 s, with 30 (SmolLM2-135M)
# 52 to 73 s (Intel Xeon, one thread, torch 2.13).
BASE_S, LAYER_S = 10.0, 2.0
# Of what an eager forward takes beyond its products.
SAVED_SHARE = 0.7
LARGEST_OVERHEAD_S = 0.1  # of a forward; where not even that would pay, nothing is measured
TRIALS = 3  # forwards timed, of which the fastest counts


@dataclass(frozen=True)
class Work:
    """What a run is going to do."""

    num_rows: int  # at once
    num_tokens: int  # of all budgets together
    setup: Setup

    @property
    def rounds(self) -> float:
        """As few as may be expected: half of what is drafted is kept."""
        gained = 1 if self.setup.is_plain else 1 + self.setup.drafter.k / 2
        return EXPECTED_SHARE * self.num_tokens / self.num_rows / gained

    def tokens_in(self, kind: StepKind) -> int:
        """Of a row, in a forward of a kind."""
        return 1 + self.setup.drafter.k if kind.is_long else 1

    def forwards(self, *, is_draft: bool) -> dict[StepKind, float]:
        """How many of each kind that a step is made for, in all."""
        is_single, setup = self.num_rows == 1, self.setup
        token, tokens = StepKind(is_single, False), StepKind(is_single, True)
        rounds = self.rounds
        if is_draft:
            return {token: rounds * (setup.drafter.k - 1), tokens: rounds}
        if setup.is_plain:
            return {token: rounds}
        # Lossless runs have plain rounds in between, and lookups often find nothing.
        is_mixed = not setup.is_loose or setup.draft_length == "adaptive"
        is_mixed = is_mixed or not setup.traits.needs_model
        return {tokens: rounds, **({token: rounds / 10} if is_mixed else {})}


@dataclass
class CompiledSteps:
    """Compiles for the models of a decoder, and tells what became of it."""

    backend: Backend = field(default_factory=lambda: AotBackend(StepPackages()))
    told: dict[str, str] = field(default_factory=dict)  # by role, what its forwards are now
    on_start: Callable[[str], None] | None = None  # called with a line before a compilation
    _refused: dict[int, str] = field(default_factory=dict)  # why, by the model's identity
    _said: set[tuple[int, str]] = field(default_factory=set)
    _seconds: float = 0.0
    _overheads: dict[tuple[int, int, bool], float] = field(default_factory=dict)

    def prepare(self, target: CausalModel, draft: CausalModel | None, work: Work) -> float:
        """Have the steps that the work needs and pays for; seconds that it took.

        Warns:
            FLyWarning: what was asked for, or would have paid, cannot be compiled; once each.
        """
        spent = self._seconds
        for role, served in (("target", target), ("draft", draft)):
            if served is None:
                continue
            why = self._why_not(served, work)
            if why is not None and work.setup.compiles == "on":
                self._say(role, served, why)
            if isinstance(served, SlotModel):
                why = why or self._compile(role, served, work)
                served.step_cache.is_on = why is None
            self.told[role] = "compiled" if why is None else f"eager: {why}"
        return self._seconds - spent

    def _why_not(self, served: CausalModel, work: Work) -> str | None:
        """What keeps a model from being compiled at all."""
        if work.setup.compiles == "off":
            return "compile is 'off'"
        if not isinstance(served, SlotModel):
            return "it is not served batched"
        if work.setup.traits.is_tree:
            return "trees are read with masks of their own"
        known = self._refused.get(id(served))
        return known or why_eager(served.model)

    def _compile(self, role: str, served: SlotModel, work: Work) -> str | None:
        """Give it its steps, or tell why not."""
        forwards = work.forwards(is_draft=role == "draft")
        served.step_cache.rest_on(packed_weights(served.view))
        missing = [kind for kind in forwards if kind not in served.step_cache]
        if not missing:
            return None
        begin = time.perf_counter()
        try:
            return self._make(role, served, work, missing, forwards)
        finally:
            self._seconds += time.perf_counter() - begin

    def _make(
        self,
        role: str,
        served: SlotModel,
        work: Work,
        missing: list[StepKind],
        forwards: dict[StepKind, float],
    ) -> str | None:
        lines = {kind: work.num_rows * work.tokens_in(kind) for kind in missing}
        new = [k for k in missing if not self.backend.has(module_for(served, lines[k]), k)]
        if new:
            if work.setup.compiles == "auto" and not self._pays(served, forwards, work, len(new)):
                return "it would not pay for so few tokens"
            why = self.backend.why_not()
            if why is not None:
                return self._refuse(role, served, why)
            if self.on_start is not None:
                self.on_start(f"compiling the {role}")
        why = make_steps(served, lines, self.backend) or self._make_last_row(served, work, missing)
        return why and self._refuse(role, served, why)

    def _make_last_row(
        self, served: SlotModel, work: Work, kinds: Sequence[StepKind]
    ) -> str | None:
        """The same steps for one row, the last of a batch, where they are asked for or there:
        its few rounds seldom pay for them."""
        alone = {StepKind(True, kind.is_long): work.tokens_in(kind) for kind in kinds}
        is_asked = work.setup.compiles == "on"
        wanted = {
            kind: lines
            for kind, lines in alone.items()
            if kind not in served.step_cache
            and (is_asked or self.backend.has(module_for(served, lines), kind))
        }
        return make_steps(served, wanted, self.backend)

    def _pays(
        self, served: SlotModel, forwards: dict[StepKind, float], work: Work, num_new: int
    ) -> bool:
        """Whether what the forwards take beyond their products is worth as many compilations."""
        price = num_new * (BASE_S + LAYER_S * len(served.cache.slot_layers))
        if sum(forwards.values()) * LARGEST_OVERHEAD_S < price:
            return False
        saved = 0.0
        for kind, count in forwards.items():
            n = work.tokens_in(kind)
            key = id(served), work.num_rows, kind.is_long
            if key not in self._overheads:
                self._overheads[key] = overhead(served, work.num_rows, n)
            saved += count * SAVED_SHARE * self._overheads[key]
        return saved > price

    def _refuse(self, role: str, served: SlotModel, why: str) -> str:
        """Remember and warn."""
        self._refused[id(served)] = why
        self._say(role, served, why)
        return why

    def _say(self, role: str, served: CausalModel, why: str) -> None:
        """Warn, once for each reason."""
        if (id(served), why) not in self._said:
            self._said.add((id(served), why))
            name = type(getattr(served, "model", served)).__name__
            message = f"the {role}, {name}, runs eagerly: {why}"
            warnings.warn(message, FLyWarning, stacklevel=6)


@torch.inference_mode()
def overhead(served: SlotModel, num_rows: int, n: int) -> float:
    """Seconds that an eager forward of n tokens a row takes beyond its matrix products, which a
    compiled one takes too."""
    model = served.without_cache()
    ids = torch.zeros(num_rows, n, dtype=torch.int64, device=served.device)
    starts = [1] * num_rows
    model.prefill([[0]] * num_rows, 0)
    whole = fastest(lambda: model.extend(ids, starts))
    pairs = [
        (layer, torch.zeros(num_rows * n, width, dtype=served.model.dtype))
        for layer in served.view.modules()
        if (width := inner_size(layer)) is not None
    ]

    def multiply() -> None:
        for layer, lines in pairs:
            layer(lines)

    return max(0.0, whole - fastest(multiply))


def inner_size(module: nn.Module) -> int | None:
    """Width of what a linear layer takes; None for other modules."""
    if isinstance(module, Conv1D):  # keeps weights the other way
        return int(module.weight.shape[0])
    return None if any(module.children()) else getattr(module, "in_features", None)


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some trials, after one that is not counted."""
    run()
    spent = []
    for _ in range(TRIALS):
        begin = time.perf_counter()
        run()
        spent.append(time.perf_counter() - begin)
    return min(spent)
