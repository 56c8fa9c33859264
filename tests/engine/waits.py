"""Counts what a round asks of a device, on the CPU: waits of the host, transfers to the device, and
operations outside of both models' forwards.

Tensors are told apart by where an accelerator would hold them.  On the device is what was made with
a `device`, moved to one, given by a model, or computed from such; on the host is all else.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fly.engine.step import run_round

READS = {
    *("tolist", "item", "cpu", "numpy", "nonzero", "argwhere", "equal", "masked_select"),
    *("__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__"),
}
MAKERS = {torch.tensor, torch.as_tensor}


@dataclass
class Round:
    """What one round asked for."""

    reads: int = 0
    uploads: int = 0
    operations: int = 0
    forwards: int = 0
    tokens: int = 0
    places: list[str] = field(default_factory=list)  # of reads and uploads


def is_on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and getattr(value, "is_there", False)


def on_device(value: Any) -> Any:
    if isinstance(value, Tensor):
        value.is_there = True
    return value


def aliased(value: Tensor) -> Tensor:
    """Another object for the same numbers."""
    with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
        return value.view(value.shape)


class Watch(TorchFunctionMode):
    """Follows tensors, and counts while a round runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Round | None = None
        self.rounds: list[Round] = []
        self.in_forward = 0
        self.dispatch = Dispatch(self)

    def note(self, kind: str, name: str) -> None:
        if self.now is not None and not self.in_forward:
            setattr(self.now, kind, getattr(self.now, kind) + 1)
            if kind != "operations":
                self.now.places.append(f"{kind[:-1]}: {name}")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.in_forward:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in READS and any(map(is_on_device, args)):
            self.note("reads", name)
            found = func(*args, **kwargs)
            return aliased(found) if isinstance(found, Tensor) else found
        found = func(*args, **kwargs)
        device = kwargs.get("device")
        if func is Tensor.to:
            device = next((each for each in args[1:] if isinstance(each, torch.device)), device)
            if device is not None and not is_on_device(args[0]):
                self.note("uploads", "to")
                return on_device(aliased(found))
        elif device is not None and isinstance(found, Tensor):
            if func in MAKERS:
                self.note("uploads", name)
            return on_device(found)
        return found


class Dispatch(TorchDispatchMode):
    """Counts operations; their results are where their arguments are."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        is_there = any(map(is_on_device, tree_leaves((args, kwargs))))
        if self.watch.now is not None and not self.watch.in_forward:
            self._count(func, args, is_there)
        if is_there:
            tree_map(on_device, found)
        return found

    def _count(self, func, args, is_there) -> None:
        name = func.overloadpacket.__name__
        if name in ("index", "index_put_", "index_put") and is_there:
            for each in filter(lambda index: index is not None, args[1]):
                if each.dtype == torch.bool:
                    self.watch.note("reads", "index by mask")
                elif not is_on_device(each):
                    self.watch.note("uploads", "index by list")
        aliases = [each.alias_info for each in func._schema.returns]
        is_view = any(alias and not alias.is_write for alias in aliases)
        if not is_view and name not in ("_local_scalar_dense", "lift_fresh"):
            self.watch.note("operations", name)


@contextmanager
def watched(monkeypatch, models):
    """Counts the rounds of decoders that are made and run inside.  `models` are watched for their
    forwards, whose own operations do not count.
    """
    watch = Watch()

    def counted(rows, engine):
        watch.now = Round()
        before = sum(row.statistics.emitted for row in rows)
        run_round(rows, engine)
        watch.now.tokens = sum(row.statistics.emitted for row in rows) - before
        watch.rounds.append(watch.now)
        watch.now = None

    def enter(*_):
        watch.in_forward += 1
        if watch.now is not None:
            watch.now.forwards += 1

    def leave(module, given, output):
        watch.in_forward -= 1
        on_device(output.logits)

    monkeypatch.setattr("fly.engine.decoder.run_round", counted)
    monkeypatch.setattr("fly.acceptance.tables.picks_places", lambda device: False)
    hooks = [
        hook
        for model in models
        for hook in (
            model.register_forward_pre_hook(enter),
            model.register_forward_hook(leave),
        )
    ]
    try:
        with watch, watch.dispatch:
            yield watch
    finally:
        for hook in hooks:
            hook.remove()
