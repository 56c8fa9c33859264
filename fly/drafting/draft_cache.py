"""The draft model's cache, shared by all drafters of one model.  It is brought up to date only for
rows that draft: tokens that a row gained in between are computed when it drafts again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fly.drafting.base import (
    CommittedRow,
    Drafter,
    DrafterContext,
    DraftModel,
    Rows,
    pad_right,
)
from fly.drafting.uploads import RowInts, Uploads

# Tokens that open a round.  A row that lacks more reads the others before.
CATCH_UP = 32
FAR_BEHIND = 128  # tokens lacking from which on a row is read as a prompt is


def within_context(model: DraftModel, rows: Rows, limits: Sequence[int], k: int) -> list[int]:
    """Tokens that each row may draft: at most k, at most its limit, and no position that the model
    does not have.  [B]
    """
    room = model.num_positions
    if room is None:
        return [min(k, limit) for limit in limits]
    return [
        min(k, limit, max(0, room - len(row.ids))) for row, limit in zip(rows, limits, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Opening:
    """The tokens that open a round, on the draft model's device."""

    ids: Tensor  # [B, n] int64, padded on the right
    counts: RowInts  # tokens
    starts: RowInts  # positions of the first
    limits: Tensor  # [B] int64


class DraftReader:
    """Progress of the draft model in every request, and the cache rows that hold it: the places of
    the rows that it is given."""

    def __init__(
        self, model: DraftModel, *, is_lazy: bool = False, uploads: Uploads | None = None
    ) -> None:
        """Nothing is read yet.

        Args:
            model: reads.
            is_lazy: no prompt is read before its row first drafts.
            uploads: the engine's, which `open` sends along.
        """
        self.model = model
        self.uploads = uploads or Uploads()
        self._is_lazy = is_lazy
        self._placed: list[int | None] = []  # by cache row: its request; None: a forgotten one
        self._unused: set[int] = set()  # cache rows that hold nothing of their request yet
        # By request: tokens with right keys; nothing until the prompt is read.
        self._held: dict[int, int] = {}
        self._drafted: set[int] = set()  # requests, in the round that is not committed yet

    @classmethod
    def of(cls, parts: DrafterContext, *, is_lazy: bool = False) -> DraftReader:
        """The one that others read through too, or a new one."""
        assert parts.model is not None
        if parts.reader is not None:
            shared: DraftReader = parts.reader
            return shared
        return cls(parts.model, is_lazy=is_lazy, uploads=parts.uploads)

    def prefill(self, rows: Rows) -> None:
        """Read the prompts of new rows; one longer than the model's context is never read."""
        room = self.model.num_positions
        if not self._is_lazy:
            self._read_prompts(rows, [room is None or len(row.ids) <= room for row in rows])

    def forget(self, index: int) -> None:
        """A request has ended, or its keys are lost."""
        self._placed = [None if other == index else other for other in self._placed]
        self._held.pop(index, None)
        self._drafted.discard(index)

    def _place(self, rows: Rows) -> None:
        """Keys and values of rows that changed places follow them.  Rows move to the front, into
        places of forgotten ones: by ascending places nothing is overwritten that is needed.  (One
        that went elsewhere would be read anew.)
        """
        before = {index: place for place, index in enumerate(self._placed) if index is not None}
        for place, row in enumerate(rows):
            source = before.get(row.index, -1)
            if source == place:
                continue
            self._unused.discard(place)
            if source > place and row.index in self._held:
                self.model.move(source, place, self._held[row.index])
            else:
                self._held.pop(row.index, None)
                self._unused.add(place)
        self._placed = [row.index for row in rows]

    def catch_up(self, rows: Rows, limits: Sequence[int]) -> None:
        """Read what the rows that will draft (a limit above 0) lack, but for the last few tokens,
        which open the round.
        """
        self._read_prompts(rows, limits)
        for place, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            held = self._held.get(row.index)
            if limit and held is not None and len(row.ids) - held > FAR_BEHIND:
                self.model.prefill([row.ids[:-1]], place)
                self._held[row.index] = len(row.ids) - 1
        while True:
            lacking = [
                len(row.ids) - self._held[row.index] - CATCH_UP
                if limit and row.index in self._held
                else 0
                for row, limit in zip(rows, limits, strict=True)
            ]
            if max(lacking) <= 0:
                return
            pieces, starts = [], []
            for row, lack in zip(rows, lacking, strict=True):
                count = min(CATCH_UP, lack)
                start = self._held[row.index] if count > 0 else self._last(row)
                pieces.append(row.ids[start : start + max(1, count)])
                starts.append(start)
                if count > 0:
                    self._held[row.index] += count
            self.model.extend(pad_right(pieces, self.model.device), starts)

    def _last(self, row: CommittedRow) -> int:
        """Where a row that reads nothing new writes its last token once more."""
        room = self.model.num_positions
        return (len(row.ids) if room is None else min(len(row.ids), room)) - 1

    def _read_prompts(self, rows: Rows, limits: Sequence[int | bool]) -> None:
        """Prefill the rows that draft for the first time, neighbours together, but for the last
        token.
        """
        self._place(rows)
        run: list[list[int]] = []
        for place in range(len(rows) + 1):
            is_new = place < len(rows) and limits[place] > 0 and rows[place].index not in self._held
            if is_new:
                self._held[rows[place].index] = len(rows[place].ids) - 1
                self._unused.discard(place)
                run.append(rows[place].ids[:-1])
            elif run:
                self.model.prefill(run, place - len(run))
                run = []
        # The model must not take the others for what their places held before.
        for place in sorted(self._unused):
            self.model.prefill([[]], place)
        self._unused.clear()

    def openings(self, rows: Rows, limits: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """The tokens that open a round, and the position of the first, for every row.

        At least the last two: after a fully accepted proposal the cache lacks the older one, and
        where it does not the same keys are written again.  A row longer than the model's context
        stays at its end.
        """
        self.catch_up(rows, limits)
        room = self.model.num_positions
        pieces, starts = [], []
        for row, limit in zip(rows, limits, strict=True):
            end = len(row.ids) if room is None else min(len(row.ids), room)
            start = max(0, end - 2)
            if limit and row.index in self._held:
                start = min(start, self._held[row.index])
                self._held[row.index] = len(row.ids)
                self._drafted.add(row.index)
            pieces.append(row.ids[start:end])
            starts.append(start)
        return pieces, starts

    def open(self, rows: Rows, limits: Sequence[int]) -> Opening:
        """What opens a round, in one transfer with all else that the device was promised."""
        pieces, starts = self.openings(rows, limits)
        counts = list(map(len, pieces))
        width = max(counts)
        lines = [
            [start, len(piece), limit, *piece, *[0] * (width - len(piece))]
            for piece, start, limit in zip(pieces, starts, limits, strict=True)
        ]
        sent = self.uploads.add(lines, self.model.device).tensor
        return Opening(
            sent[:, 3:], RowInts(counts, sent[:, 1]), RowInts(starts, sent[:, 0]), sent[:, 2]
        )

    def commit(self, rows: Rows) -> None:
        """Of what was drafted in the round all that was kept is read, but for the last token of a
        proposal that was kept whole; may be called by each of several drafters.
        """
        for row in rows:
            if row.index in self._drafted:
                self._held[row.index] = max(self._held[row.index], len(row.ids) - 2)
        self._drafted.clear()

    def keep(self, rows: Rows, counts: Sequence[int]) -> None:
        """Instead of `commit`, where tokens may have changed: of every row's, and of what was
        drafted after them, only so many of the first are the tokens that were read.
        """
        for row, count in zip(rows, counts, strict=True):
            if row.index in self._held:
                is_drafted = row.index in self._drafted
                self._held[row.index] = count if is_drafted else min(self._held[row.index], count)
        self._drafted.clear()

    def forget_drafted(self) -> None:
        """What was drafted does not lie where its tokens will: it is read anew."""
        self._drafted.clear()


class CachedDrafter(Drafter):
    """A drafter that reads rows with a draft model."""

    def __init__(self, model: DraftModel, reader: DraftReader | None) -> None:
        """Read with `model`, through `reader` if others read through it too."""
        self.model = model
        self.reader = reader or DraftReader(model)

    def prefill(self, rows: Rows) -> None:
        """Read the new prompts."""
        self.reader.prefill(rows)

    def commit(self, rows: Rows) -> None:
        """What was refused lies after the rows' lengths and is overwritten."""
        self.reader.commit(rows)

    def forget(self, index: int) -> None:
        """Its keys and values are not needed."""
        self.reader.forget(index)
