"""Format of answers.jsonl, one line for every finished answer.  A header comes first; a line holds
its rounds where they were traced.  docs/formats.md describes every key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import model_validator

from fly import plain_json
from fly.formats.base import Format

FILE_NAME = "answers.jsonl"

# A character for every token of an answer: where it came from.
ORIGINS = {"m": "match", "l": "loose", "c": "correction", "b": "bonus", "p": "plain"}


class Mismatch(Format):
    """A drafted token that was not the target's choice, up to the first that was refused."""

    at: int  # index in the proposal
    drafted: str
    preferred: str  # the target's choice
    p_drafted: float  # by the target
    p_preferred: float
    entropy: float  # of the target, as the rule's gate measures it, or top-3 nats
    reason: str  # of acceptance.Reason, in lower case


class Round(Format):
    """What one round decided."""

    proposal: list[int]  # ids
    kept: int  # of the proposal
    reasons: str  # a digit of acceptance.Reason for every proposed token
    emitted: int  # tokens that became part of the answer
    mismatches: list[Mismatch]


class Line(Format):
    """A line of the file, which has the checksum that it was written with, or none (version 1)."""

    @model_validator(mode="before")
    @classmethod
    def _unseal(cls, value: Any) -> Any:
        return plain_json.unseal(value)


class Answer(Line):
    """A finished request of one method."""

    kind: Literal["answer"] = "answer"
    method: str
    task: str
    doc_id: int | None
    doc_hash: str | None
    idx: int  # of the request among those of its document
    repeat: int  # among the copies that the task asks for
    prompt: str
    text: str  # as it is scored
    token_ids: list[int]
    tokens: list[str]  # the same as text, piece by piece
    origins: str  # a character of ORIGINS for every token; empty where others decoded
    round_lens: list[tuple[int, int]]  # per round: tokens proposed and kept
    finish_reason: str
    statistics: dict[str, float]
    rounds: list[Round] | None = None


def kept_by_position(answers: Iterable[Answer]) -> list[float]:
    """Of rounds that proposed a token at a position, the share that kept it."""
    counts = Counter(pair for answer in answers for pair in answer.round_lens)
    shares = []
    for place in range(max((proposed for proposed, _ in counts), default=0)):
        proposed = sum(n for (offered, _), n in counts.items() if offered > place)
        kept = sum(n for (offered, number), n in counts.items() if offered > place < number)
        shares.append(kept / proposed)
    return shares


class Header(Line):
    """The first line: what the answers belong to."""

    fly_answers: Literal[2] = 2
    fingerprint: str
    settings: dict[str, Any]
    methods: dict[
        str, dict[str, Any]
    ]  # by name: settings, and `window` inspected after a loose token


class Block(Line):
    """A block of requests that a method decoded without interruption."""

    block: int  # number in its task
    method: str
    task: str
    num_answers: int
    num_tokens: int
    seconds: float  # whole wall time
    peak_memory_bytes: int | None


class PlainSpeeds(Line):
    """What plain decoding reached at some batch sizes, in tokens/s by method."""

    search: dict[str, float]


class Rung(Line):
    """A part of a sweep's items, tried by a point, or by all that were still in."""

    rung: int
    rounds_decoded: int  # of single rows, since the last such line
    stopped: dict[str, str] | None  # why, by point, at the end of the part; None before
