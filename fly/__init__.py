"""Loosened speculative decoding (FLy) for lm-evaluation-harness.  Public names load on first use,
so that `import fly` loads neither torch nor lm-eval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fly.registry import lazy_names

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

__getattr__ = lazy_names(
    "fly",
    {
        "fly.config": ("FLyConfig",),
        "fly.engine": ("Request", "Result", "SpeculativeDecoder"),
        "fly.errors": ("FLyError",),
        "fly.harness": ("FLyLM",),
    },
)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return list(__all__)
