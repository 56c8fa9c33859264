"""Which request sits in which row.  Rows in use are always the first ones: a finished row's place
is taken by the last row, and new requests come in behind.  No tensors here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fly.decoding.rows import Row


class Scheduler:
    """A queue of waiting rows and the rows being decoded."""

    def __init__(self, rows: Sequence[Row], batch_size: int) -> None:
        """Queue the rows, longest prompts first: those who enter together are then of similar
        length.
        """
        self._waiting = deque(sorted(rows, key=lambda row: -len(row.ids)))
        self._batch_size = batch_size
        self.rows: list[Row] = []

    @property
    def has_work(self) -> bool:
        """Something is waiting or being decoded."""
        return bool(self._waiting or self.rows)

    def admit(self) -> int:
        """Move waiting rows into the free places; the number of the first new row."""
        first = len(self.rows)
        while self._waiting and len(self.rows) < self._batch_size:
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
