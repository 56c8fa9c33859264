"""Loosened speculative decoding (FLy) for lm-evaluation-harness.  Public names load on first use,
so that `import fly` loads neither torch nor lm-eval."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fly.config import FLyConfig
    from fly.engine import Request, Result, SpeculativeDecoder
    from fly.errors import FLyError
    from fly.harness import FLyLM

__version__ = "0.2.0"

__all__ = [
    "FLyConfig",
    "FLyError",
    "FLyLM",
    "Request",
    "Result",
    "SpeculativeDecoder",
    "__version__",
]

_HOMES = {
    "FLyConfig": "fly.config",
    "FLyError": "fly.errors",
    "FLyLM": "fly.harness",
    "Request": "fly.engine",
    "Result": "fly.engine",
    "SpeculativeDecoder": "fly.engine",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fly' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return list(__all__)
