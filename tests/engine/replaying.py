"""Graphs on a CPU: operations are recorded one by one and done again on the same tensors, as a
device's graphs do it.  Nothing of Python runs in a replay."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What waits for the device, or has a size that depends on numbers: CUDA refuses to capture it.
REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten.equal")


def tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


@dataclass
class Call:
    """One operation with what it read and made."""

    func: Any
    args: Any
    kwargs: Any
    made: Any

    @property
    def is_constant(self) -> bool:
        """A tensor made of the host's numbers, as `torch.tensor` makes it."""
        return "lift_fresh" in str(self.func)

    def again(self) -> None:
        """Do it anew, with the result where it was."""
        read = {each.untyped_storage().data_ptr() for each in tensors((self.args, self.kwargs))}
        anew = self.func(*self.args, **self.kwargs)
        for old, new in zip(tensors(self.made), tensors(anew), strict=True):
            assert old.shape == new.shape
            if old.untyped_storage().data_ptr() not in read:  # no view, and not written in place
                old.copy_(new)

    def told(self, made_before: set[int]) -> Iterator[Any]:
        """All that must be the same in every call: operations, host values and shapes, and the
        addresses of what was there before."""
        yield str(self.func)
        if self.is_constant:
            yield self.args[0].tolist()
            return
        for leaf in tree_leaves((self.args, self.kwargs)):
            if isinstance(leaf, torch.Tensor):
                place = leaf.untyped_storage().data_ptr()
                yield tuple(leaf.shape), None if place in made_before else place
            else:
                yield leaf


class Recorder(TorchDispatchMode):
    """Keeps every operation, and all results, so that no address is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert not any(name in str(func) for name in REFUSED), f"{func} cannot be captured"
        made = func(*args, **kwargs)
        self.calls.append(Call(func, args, kwargs, made))
        return made

    def told(self) -> list[Any]:
        known: set[int] = set()
        lines = []
        for call in self.calls:
            lines.append(list(call.told(known)))
            read = {each.untyped_storage().data_ptr() for each in tensors((call.args, call.kwargs))}
            made = {each.untyped_storage().data_ptr() for each in tensors(call.made)}
            known |= made if call.is_constant else made - read
        return lines


@dataclass
class RecordedGraphs:
    """Stands for CudaGraphs; `checks` compares every replay with what would be captured then."""

    checks: bool = False
    num_captured: int = 0
    replays: list[int] = field(default_factory=list)  # numbers of graphs

    def capture(self, run: Callable[[], Any]) -> Callable[[], None]:
        number, self.num_captured = self.num_captured, self.num_captured + 1
        with Recorder() as recorder:
            run()

        def replay() -> None:
            if self.checks:
                with Recorder() as anew:
                    run()
                assert anew.told() == recorder.told(), "not the same at every call"
            for call in recorder.calls:
                call.again()
            self.replays.append(number)

        return replay
