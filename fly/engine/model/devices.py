"""Models that lie on several devices, and tensors that go to each of them once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def parts(model: PreTrainedModel) -> list[nn.Module]:
    """Its modules; none where something else has a model's interface."""
    return list(model.modules()) if isinstance(model, nn.Module) else []


def has_hooks(model: PreTrainedModel) -> bool:
    """Whether accelerate's hooks run a model, which bring weights or what is read to a device."""
    return any(hasattr(module, "_hf_hook") for module in parts(model))


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody has hooked functions of their own into a module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class MovedOnce(Tensor):
    """A tensor that keeps its copies on other devices.  Every layer asks for what it reads on its
    own device, and many layers share one.  What is computed from it is an ordinary tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _copies: dict[torch.device, Tensor]

    @staticmethod
    def of(tensor: Tensor) -> MovedOnce:
        """The same numbers."""
        kept = tensor.as_subclass(MovedOnce)
        kept._copies = {}
        return kept

    def to(self, *target: Any, **options: Any) -> Tensor:
        """As Tensor.to; a copy on another device is made once."""
        is_device = len(target) == 1 and isinstance(target[0], str | int | torch.device)
        if not is_device or options.keys() - {"non_blocking"}:
            return super().to(*target, **options)
        place = torch.device(target[0])
        if place == self.device:
            return self
        if place not in self._copies:
            self._copies[place] = super().to(place, **options)
        return self._copies[place]
