"""The record of a problem, and the split into training and held-out ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from fly.errors import FLyError

Kind = Literal["arithmetic", "code"]

HELDOUT_MODULUS = 10  # one residue in ten is held out


class UnknownKindError(FLyError, ValueError):
    """A kind or a number of problems that does not exist."""


@dataclass(frozen=True)
class Problem:
    """One problem with one of its many equally good solutions.

    `prompt + solution` is what a model is trained on; neither begins or ends with a token that
    would merge across the border.
    """

    kind: Kind
    prompt: str
    solution: str
    answer: str  # the number after ####; "" for code
    test: str  # defines check(candidate), which raises where the candidate is wrong; "" otherwise
    entry_point: str  # name of the function; "" for arithmetic
    key: str  # the facts in canonical form, without any wording


def is_heldout(key: str) -> bool:
    """Whether the problem with these facts is kept out of every training stream."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELDOUT_MODULUS == 0
