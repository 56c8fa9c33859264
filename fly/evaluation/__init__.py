"""The former name of `fly.workbench`."""

from fly.workbench import compare, sweep

__all__ = ["compare", "sweep"]
