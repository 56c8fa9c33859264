"""Format of items.jsonl, one line for every item of a comparison.  It holds the score by method and
the place where each method's answer first left the target's own."""

from __future__ import annotations

from fly.formats.model import Format

FILE_NAME = "items.jsonl"


class Divergence(Format):
    """Where an answer first differs from the target's own."""

    at: int  # token of the answer; its length where one goes on and the other ended
    token: str | None  # None where the answer had ended
    target_token: str | None
    gap: float | None  # target's p(best) - p(second) there
    is_tie: bool
    loose_at: int | None  # the last loosened token at or before it
    loose_token: str | None


class Item(Format):
    """A document of a task."""

    task: str
    doc_id: int | None
    doc_hash: str | None
    target_text: str | None = None  # the reference answer, as the task gives it
    scores: dict[str, float]  # by method
    divergences: dict[str, Divergence]  # by method; those that differ from the target
