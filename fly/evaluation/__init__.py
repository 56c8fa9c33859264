"""The name of `fly.workbench` before 0.2."""

from fly.workbench import compare, sweep

__all__ = ["compare", "sweep"]
