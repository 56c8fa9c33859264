"""The former name of `fly.harness`.  Importing it enters `fly` in lm-eval's registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fly.harness

if TYPE_CHECKING:
    from fly.harness import FLyLM

__all__ = ["FLyLM"]


def __getattr__(name: str) -> object:
    return getattr(fly.harness, name)
