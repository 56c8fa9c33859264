"""Records of the engine (`Row`, `Outcome`, `Result`) and its `Scheduler`.  The scheduler gives
waiting requests the rows that become free."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from fly.acceptance import Reason
from fly.engine.model.prefixes import common_prefix
from fly.engine.request import Request
from fly.engine.statistics import Statistics

if TYPE_CHECKING:
    from fly.engine.processing import Processing

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class MismatchRecord:
    """A mismatch that took effect: kept, or the first that was refused."""

    place: int  # in the proposal
    preferred_id: int  # the target's own token there
    p_drafted: float  # by the target's raw logits
    p_preferred: float
    entropy: float  # of the kind that the rule's gate looks at; top3 where it has none


@dataclass(frozen=True)
class RoundRecord:
    """Record of one round's decisions for one row; kept only when asked for."""

    draft_ids: list[int]  # [K]
    reasons: list[int]  # [K] acceptance.Reason
    emitted_ids: list[int]  # before anything is trimmed
    mismatches: list[MismatchRecord]

    @property
    def native(self) -> list[bool]:
        """Native matches, after the first refusal too.  [K]"""
        return [reason == Reason.MATCH for reason in self.reasons]

    @property
    def accepted(self) -> list[bool]:
        """The rule's decisions, after the first refusal too.  [K]"""
        return [reason in (Reason.MATCH, Reason.LOOSE) for reason in self.reasons]


@dataclass(frozen=True)
class Outcome:
    """Decision of a round for one row, on the host."""

    proposal: list[int]  # ids
    num_kept: int  # of the proposal
    reasons: list[int]  # an acceptance.Reason for every proposed token
    own: int  # the target's token after those kept: correction, bonus or plain step

    @property
    def num_proposed(self) -> int:
        """Tokens proposed."""
        return len(self.proposal)

    @property
    def num_loose(self) -> int:
        """Kept tokens that the rule loosened."""
        return self.reasons[: self.num_kept].count(Reason.LOOSE)

    @property
    def ids(self) -> list[int]:
        """The tokens kept and the target's own after them."""
        return [*self.proposal[: self.num_kept], self.own]

    @property
    def origins(self) -> str:
        """A character for each of `ids`, as in Result.origins."""
        kept = self.reasons[: self.num_kept]
        own = "p" if self.num_proposed == 0 else "b" if self.num_kept == self.num_proposed else "c"
        return "".join(["l" if reason == Reason.LOOSE else "m" for reason in kept]) + own

    @property
    def mismatches(self) -> list[int]:
        """Places of the mismatches that took effect: those kept, and the first refusal.  What lies
        after it is judged, but nothing depends on it.
        """
        effective = enumerate(self.reasons[: self.num_kept + 1])
        return [place for place, reason in effective if reason != Reason.MATCH]


@dataclass(frozen=True)
class Result:
    """One answer."""

    token_ids: list[int]  # up to and including the token that ended it
    text: str  # special tokens left out, cut before the stop string
    finish_reason: (
        FinishReason  # eos: an end token; stop: a stop string; length: budget or context exhausted
    )
    statistics: Statistics
    rounds: list[RoundRecord] | None = None
    key: str = ""
    origins: str = ""  # a character a token: m match, l loose, c correction, b bonus, p plain
    round_lens: list[tuple[int, int]] = field(
        default_factory=list
    )  # tokens proposed and kept (before anything is trimmed), of the rounds with a proposal


class Said(NamedTuple):
    """All that matters of an answer so far to stop strings (stopping.py)."""

    tail: bytes = b""  # the end of its text, empty where all of it is blank or thinking
    counts: bool = True  # stop strings count here
    is_concerned: bool = False  # the last token completes, begins or continues a stop string
    has_stop: bool = False  # the last token completes one


@dataclass
class Row:
    """A request while it is being decoded.  The target's cache holds all of `ids` but the last."""

    index: int  # place of the request among those asked
    request: Request
    budget: int  # new tokens that it may get
    processing: Processing | None = None  # None: plain argmax
    ids: list[int] = field(default_factory=list)  # prompt and emitted tokens
    statistics: Statistics = field(default_factory=Statistics)
    rounds: list[RoundRecord] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)  # a character for every emitted token
    round_lens: list[tuple[int, int]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    said: tuple[int, Said] | None = None  # StopStrings', and how many new tokens it has read

    def __post_init__(self) -> None:
        """A new row holds its prompt."""
        self.ids = list(self.request.prompt_ids)
        self.statistics.requests = 1
        self.statistics.prompt_tokens = len(self.ids)

    @property
    def key(self) -> str:
        """The request's."""
        return self.request.key

    @property
    def is_sampled(self) -> bool:
        """Whether its tokens are drawn."""
        return self.processing is not None and self.processing.is_sampled

    @property
    def answer(self) -> list[int]:
        """The emitted tokens."""
        return self.ids[len(self.request.prompt_ids) :]

    @property
    def num_rounds(self) -> int:
        """Rounds that the row has had."""
        return self.statistics.rounds + self.statistics.plain

    @property
    def remaining(self) -> int:
        """New tokens that may still come."""
        return self.budget - (len(self.ids) - len(self.request.prompt_ids))


def queue_order(rows: Iterable[Row]) -> list[Row]:
    """Longest prompts first, so that those who enter together are of similar length; prompts that
    begin alike stay together, so that their beginning is still in a row's slots when it is wanted.
    """
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.ids):
        last = groups[-1][-1] if groups else None
        if last and 2 * common_prefix(last.ids, row.ids) >= max(len(last.ids), len(row.ids)):
            groups[-1].append(row)
        else:
            groups.append([row])
    for group in groups:
        group.sort(key=lambda row: (-len(row.ids), row.index))
    groups.sort(key=lambda group: (-len(group[0].ids), group[0].index))
    return list(chain.from_iterable(groups))


class Scheduler:
    """A queue of waiting rows and the rows being decoded.  Rows in use are always the first ones: a
    finished row's place is taken by the last row, and new requests come in after them.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        """Queue the rows."""
        self._waiting = deque(queue_order(rows))
        self.rows: list[Row] = []
        # Tokens of the longest row, its answer included.
        self.longest = max((len(row.ids) + row.remaining for row in rows), default=0)

    @property
    def has_work(self) -> bool:
        """Something is waiting or being decoded."""
        return bool(self._waiting or self.rows)

    @property
    def num_waiting(self) -> int:
        """Requests that have not been given a row."""
        return len(self._waiting)

    def admit(self, batch_size: int) -> int:
        """Fill up to `batch_size` rows from the queue; the number of the first new row."""
        first = len(self.rows)
        while self._waiting and len(self.rows) < batch_size:
            self.rows.append(self._waiting.popleft())
        return first

    def retire(self) -> tuple[list[Row], list[tuple[int, int]]]:
        """Take out finished rows; also the moves (source, destination) that closed their gaps."""
        finished = [row for row in self.rows if row.finish_reason is not None]
        num_live = len(self.rows) - len(finished)
        gaps = [index for index in range(num_live) if self.rows[index].finish_reason is not None]
        behind = range(num_live, len(self.rows))
        movers = [index for index in behind if self.rows[index].finish_reason is None]
        moves = list(zip(movers, gaps, strict=True))
        for source, destination in moves:
            self.rows[destination] = self.rows[source]
        del self.rows[num_live:]
        return finished, moves

    def requeue(self) -> list[Row]:
        """Put all rows back to the front of the queue, with what they have decoded so far; those
        that have ended are returned.
        """
        finished = [row for row in self.rows if row.finish_reason is not None]
        self._waiting.extendleft(row for row in reversed(self.rows) if row.finish_reason is None)
        self.rows.clear()
        return finished
