"""Judging what was decoded: whether a way of decoding keeps the score (`compare`), and which
setting is the fastest that does (`sweep`)."""

from fly.workbench.api import compare, sweep

__all__ = ["compare", "sweep"]
