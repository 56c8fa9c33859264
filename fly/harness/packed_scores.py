"""Log-likelihoods on packed weights, and the choice of a run's packed products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM

from fly.engine.model.packed import Packer, packable_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fly.config import FLyConfig


class PackedHFLM(HFLM):
    """lm-eval's HFLM, which scores with the target as it runs in the engine."""

    fly_config: FLyConfig
    draft: PreTrainedModel | None

    @cached_property
    def packer(self) -> Packer:
        """Packs the linear layers of both models.  Log-likelihoods run packed, too."""
        return Packer(self.fly_config.setup.packed)

    def choose_packed(self) -> Mapping[str, list[int]]:
        """Which products run packed, measured if it is not known yet."""
        for model in filter(None, (self.model, self.draft)):
            self.packer.measure(packable_layers(model))
        return self.packer.choice

    def resume_packed(self, choice: Mapping[str, list[int]]) -> None:
        """Run the products packed that an earlier part of this run did: other kernels round
        otherwise."""
        if self.packer.choice != choice:
            self.packer = Packer(self.fly_config.setup.packed, dict(choice))
            self.__dict__.pop("decoder", None)

    def _model_call(self, inps: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """Hook of HFLM, for log-likelihoods: the target as it runs in the engine, too."""
        attributes: Any = self
        loaded = attributes._model
        attributes._model = self.packer.view(self.model, "target")
        try:
            logits: torch.Tensor = super()._model_call(inps, *args, **options)
        finally:
            attributes._model = loaded
        return logits
