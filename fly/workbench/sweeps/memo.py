"""Memory of decoded rounds, from which answers are replayed.  Integers only; a context is
identified by a digest of the answer so far."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from fly.engine.batch import FinishReason, Outcome, Row
from fly.engine.request import Request
from fly.engine.statistics import Statistics
from fly.engine.step import commit
from fly.engine.stopping import StopRules

DIGEST_BYTES = 16


class Step(NamedTuple):
    """One point's share of a round; hashable, since most points share theirs with others."""

    ids: tuple[int, ...]  # the tokens kept and the target's own after them
    reasons: bytes  # of the tokens kept and of the first refused one
    num_proposed: int
    draft_forwards: int

    @property
    def outcome(self) -> Outcome:
        """As the engine commits it."""
        *kept, own = self.ids
        # What was proposed after the first refusal is not stored and does not matter.
        proposal = kept + [own] * (self.num_proposed - len(kept))
        return Outcome(proposal, len(kept), list(self.reasons), own)


@dataclass(frozen=True)
class PointAnswer:
    """A point's answer to a request, as it would decode it with no other point beside it."""

    index: int  # the caller's number of the request
    token_ids: list[int]
    text: str
    origins: str  # per token: m(atch), l(oose), c(orrection), b(onus) or p(lain)
    round_lens: list[tuple[int, int]]  # tokens proposed and kept, as in Result
    finish_reason: FinishReason
    # draft_forwards are those of a row that is decoded alone, or, of multilevel, of the point that
    # drafted; seconds are none, they were shared.
    statistics: Statistics


class AnswerDigest:
    """The digest of an answer that grows."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        """Begin with these ids."""
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """The answer goes on with `ids`."""
        self._hash.update(array("q", ids).tobytes())

    @property
    def value(self) -> bytes:
        """The digest so far."""
        return self._hash.digest()


@dataclass
class RequestMemo:
    """All that is known of one request, for points that draft alike."""

    index: int  # the caller's number of the request
    request: Request
    budget: int
    # By digest of the answer so far; per point, None where its round is unknown.
    contexts: dict[bytes, tuple[Step | None, ...]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)  # points whose answers were given out

    def keep(self, answer: Sequence[int], steps: Sequence[Step | None]) -> None:
        """Store what became of the round after `answer`; what is known already stays."""
        digest = AnswerDigest(answer).value
        known = self.contexts.get(digest, (None,) * len(steps))
        seen: dict[Step, Step] = {}  # equal steps are stored once
        self.contexts[digest] = tuple(
            old if old is not None else new and seen.setdefault(new, new)
            for old, new in zip(known, steps, strict=True)
        )

    def replay(self, point: int, stops: StopRules) -> Row:
        """Follow a point from the prompt as far as its rounds are known."""
        row, digest = Row(self.index, self.request, self.budget), AnswerDigest()
        while row.finish_reason is None:
            known = self.contexts.get(digest.value)
            step = known[point] if known else None
            if step is None:
                break
            length = len(row.ids)
            commit(row, step.outcome, stops)
            row.statistics.draft_forwards += step.draft_forwards
            digest.extend(row.ids[length:])
        return row

    def forget(self) -> None:
        """Give up the contexts."""
        self.contexts.clear()


def answer_of(row: Row, stops: StopRules) -> PointAnswer:
    """The answer of a row that reached its end."""
    assert row.finish_reason is not None
    return PointAnswer(
        index=row.index,
        token_ids=row.answer,
        text=stops.text(row.answer, row.request),
        origins="".join(row.origins),
        round_lens=row.round_lens,
        finish_reason=row.finish_reason,
        statistics=row.statistics,
    )
