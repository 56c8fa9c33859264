"""Steps for tests: traced, or called as they are, and not compiled, which takes twenty seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fly.engine.model.graph import Step, StepKind, StepModule, export_step

KINDS = [StepKind(is_single, is_long) for is_single in (True, False) for is_long in (False, True)]


def traced(module: StepModule, kind: StepKind, buffers: Sequence[Tensor]) -> Step:
    """The exported program, with its checks of sizes."""
    program = export_step(module, kind, buffers).module(check_guards=False)

    def step(ids: Tensor, positions: Tensor, slots: Tensor, held: Sequence[Tensor]) -> Tensor:
        # Compiled code knows its inputs by their addresses.
        assert all(each.is_contiguous() for each in (ids, positions, slots))
        # Tensors of inference mode cannot be functionalised.
        with torch.inference_mode(False), torch.no_grad():
            plain = [each.clone() for each in held]
            logits: Tensor = program(ids.clone(), positions.clone(), slots.clone(), plain)
        for each, new in zip(held, plain, strict=True):
            each.copy_(new)
        return logits

    return step


@dataclass
class CallingBackend:
    """Makes steps that call the module, and counts them."""

    name: str = "calling"
    missing: str | None = None
    kept: set[StepKind] = field(default_factory=set)  # said to be there already
    made: list[StepKind] = field(default_factory=list)
    factor: float = 1.0  # of the logits: another is a wrong step

    def why_not(self) -> str | None:
        return self.missing

    def has(self, module: StepModule, kind: StepKind) -> bool:
        return kind in self.kept

    def make(self, module: StepModule, kind: StepKind, buffers: Sequence[Tensor]) -> Step:
        self.made.append(kind)
        return lambda *given: module(*given) * self.factor
