"""The decoding engine.  It uses torch and transformers, and nothing of lm-eval."""

from fly.engine.batch import MismatchRecord, Result, RoundRecord
from fly.engine.decoder import SpeculativeDecoder
from fly.engine.request import OTHER_METHODS, SHAPING, Request, Thinking
from fly.engine.statistics import Statistics

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
