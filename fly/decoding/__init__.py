"""The decoding engine.  It knows torch and transformers, and nothing of lm-eval."""

from fly.decoding.arguments import OTHER_METHODS, SHAPING
from fly.decoding.decoder import SpeculativeDecoder
from fly.decoding.request import Request, Thinking
from fly.decoding.rows import MismatchRecord, Result, RoundRecord
from fly.decoding.statistics import Statistics

__all__ = [
    "OTHER_METHODS",
    "SHAPING",
    "MismatchRecord",
    "Request",
    "Result",
    "RoundRecord",
    "SpeculativeDecoder",
    "Statistics",
    "Thinking",
]
