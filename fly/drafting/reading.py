"""The draft model's cache, kept up to date only as far as somebody drafts with it: what a row
gained in between is read when it drafts again.  Drafters of one model share one of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fly.drafting.protocol import CommittedRow, DraftModel, upload

# Tokens that open a round.  A row that lacks more reads the others before.
CATCH_UP = 32
FAR_BEHIND = 128  # tokens lacking from which on a row is read as a prompt is


def within_context(
    model: DraftModel, rows: Sequence[CommittedRow], limits: Sequence[int], k: int
) -> list[int]:
    """Tokens that each row may draft: at most k, at most its limit, and no position that the model
    does not know.  [B]
    """
    room = model.num_positions
    if room is None:
        return [min(k, limit) for limit in limits]
    return [
        min(k, limit, max(0, room - len(row.ids))) for row, limit in zip(rows, limits, strict=True)
    ]


def pad_right(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Stack ragged ids, filled up with 0.  [B, n] int64, n the longest."""
    width = max(map(len, sequences))
    return upload([[*ids, *[0] * (width - len(ids))] for ids in sequences], device)


class DraftReader:
    """How much of every row the draft model has read."""

    def __init__(self, model: DraftModel) -> None:
        """Nothing is read yet."""
        self.model = model
        self._held: list[int | None] = []  # tokens with right keys; None: the prompt is not read
        self._drafted: list[bool] = []  # in the round that is not committed yet

    def admit(self, rows: Sequence[CommittedRow], first: int, *, is_lazy: bool = False) -> None:
        """Rows `first` and following are new.  Their prompts are read now, or if `is_lazy` when
        they first draft; one longer than the model's context is never read.
        """
        count = len(rows) - first
        self._held[first:] = [None] * count
        self._drafted[first:] = [False] * count
        if is_lazy:
            # The model must not take the rows for what they held before.
            self.model.prefill([[] for _ in range(count)], first)
            return
        room = self.model.num_positions
        fits = [room is None or len(row.ids) <= room for row in rows]
        for index in range(first, len(rows)):
            if not fits[index]:
                self.model.prefill([[]], index)
        self._read_prompts(rows, [int(index >= first and fit) for index, fit in enumerate(fits)])

    def move(self, source: int, destination: int, length: int) -> None:
        """Row `source` takes the place of row `destination`."""
        if self._held[source] is not None:
            self.model.move(source, destination, length)
        elif self._held[destination] is not None:
            self.model.prefill([[]], destination)
        self._held[destination] = self._held[source]

    def catch_up(self, rows: Sequence[CommittedRow], limits: Sequence[int]) -> None:
        """Read what the rows that will draft (a limit above 0) lack, but for the last few tokens,
        which open the round.
        """
        self._read_prompts(rows, limits)
        for index, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            held = self._held[index]
            if limit and held is not None and len(row.ids) - held > FAR_BEHIND:
                self.model.prefill([row.ids[:-1]], index)
                self._held[index] = len(row.ids) - 1
        while True:
            lacking = [
                len(row.ids) - held - CATCH_UP if limit and held is not None else 0
                for row, limit, held in zip(rows, limits, self._held, strict=False)
            ]
            if max(lacking) <= 0:
                return
            pieces, starts = [], []
            for index, (row, lack) in enumerate(zip(rows, lacking, strict=True)):
                held = self._held[index] or 0
                count = min(CATCH_UP, lack)
                start = held if count > 0 else self._last(row)
                pieces.append(row.ids[start : start + max(1, count)])
                starts.append(start)
                if count > 0:
                    self._held[index] = held + count
            self.model.extend(pad_right(pieces, self.model.device), starts)

    def _last(self, row: CommittedRow) -> int:
        """Where a row that reads nothing new writes its last token once more."""
        room = self.model.num_positions
        return (len(row.ids) if room is None else min(len(row.ids), room)) - 1

    def _read_prompts(self, rows: Sequence[CommittedRow], limits: Sequence[int]) -> None:
        """Prefill the rows that draft for the first time, neighbours together, but for the last
        token.
        """
        run: list[list[int]] = []
        for index in range(len(rows) + 1):
            is_new = index < len(rows) and limits[index] > 0 and self._held[index] is None
            if is_new:
                self._held[index] = len(rows[index].ids) - 1
                run.append(rows[index].ids[:-1])
            elif run:
                self.model.prefill(run, index - len(run))
                run = []

    def openings(
        self, rows: Sequence[CommittedRow], limits: Sequence[int]
    ) -> tuple[list[list[int]], list[int]]:
        """The tokens that open a round, and the position of the first, for every row.

        At least the last two: after a fully accepted proposal the cache lacks the older one, and
        where it does not the same keys are written again.  A row longer than the model's context
        stays at its end.
        """
        self.catch_up(rows, limits)
        room = self.model.num_positions
        pieces, starts = [], []
        for index, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            end = len(row.ids) if room is None else min(len(row.ids), room)
            held = self._held[index]
            start = max(0, end - 2)
            if limit and held is not None:
                start = min(start, held)
                self._held[index] = len(row.ids)
                self._drafted[index] = True
            pieces.append(row.ids[start:end])
            starts.append(start)
        return pieces, starts

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Of what was drafted in the round all that was kept is read, but for the last token of a
        proposal that was kept whole; may be called once by each of several drafters.
        """
        for index, row in enumerate(rows):
            held = self._held[index]
            if self._drafted[index] and held is not None:
                self._held[index] = max(held, len(row.ids) - 2)
            self._drafted[index] = False

    def keep(self, counts: Sequence[int]) -> None:
        """Instead of `commit`, where tokens may have changed: of every row's, and of what was
        drafted behind them, only so many of the first are the tokens that were read.
        """
        for index, count in enumerate(counts):
            held = self._held[index]
            if held is not None:
                self._held[index] = count if self._drafted[index] else min(held, count)
            self._drafted[index] = False

    def forget_drafted(self) -> None:
        """What was drafted does not lie where its tokens will: it is read anew."""
        self._drafted[:] = [False] * len(self._drafted)


class BorrowedReader(DraftReader):
    """Another's reader, for drafters that take turns: its owner tells it of rows."""

    def __init__(self, owned: DraftReader) -> None:
        """Read through `owned`."""
        super().__init__(owned.model)
        self._held, self._drafted = owned._held, owned._drafted

    def admit(self, rows: Sequence[CommittedRow], first: int, *, is_lazy: bool = False) -> None:
        """The owner's."""

    def move(self, source: int, destination: int, length: int) -> None:
        """The owner's."""

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """The owner's."""
