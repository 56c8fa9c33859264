"""Which request sits in which row.  Rows in use are always the first ones: a finished row's place
is taken by the last row, and new requests come in behind.  No tensors here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain

from fly.decoding.prefixes import common_prefix
from fly.decoding.rows import Row


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
    """A queue of waiting rows and the rows being decoded."""

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
