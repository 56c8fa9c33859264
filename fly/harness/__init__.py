"""The model `fly` of lm-eval.  Importing this package enters it in lm-eval's registry and changes
nothing else there; the class, and with it torch, is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

# lm-eval fills its registry with its own models only while the registry is empty, so they have to
# be there first.
import lm_eval.models  # noqa: F401
from lm_eval.api.registry import model_registry

if TYPE_CHECKING:
    from fly.harness.lm import FLyLM

__all__ = ["FLyLM"]

if "fly" not in model_registry:
    model_registry.register("fly", target="fly.harness.lm:FLyLM")


def __getattr__(name: str) -> object:
    """Import `FLyLM` when it is first used."""
    if name != "FLyLM":
        raise AttributeError(f"module 'fly.harness' has no attribute {name!r}")
    from fly.harness.lm import FLyLM

    return FLyLM
