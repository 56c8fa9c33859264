"""Evaluation of decoding methods.  `compare` judges whether a way of decoding keeps the score;
`sweep` finds the fastest setting that does."""

from fly.workbench.api import compare, sweep

__all__ = ["compare", "sweep"]
