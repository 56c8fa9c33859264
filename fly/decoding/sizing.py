"""How many rows are decoded at once: a fixed number, or one that is found while decoding.  Nothing
is decoded for the search alone: it watches real rounds.
"""

from __future__ import annotations

from statistics import median

from fly.config.batch_size import check_batch_size, num_searches

FIRST_ROWS = 8
TRIAL_ROUNDS = 5
# A doubled batch must advance rows this much faster: below, it only costs memory.
WORTHWHILE = 1.1
MAX_ROWS = 64  # of a search, unless told otherwise; lm-eval's default too


class BatchSize:
    """The rows that may be decoded at once.

    `auto` starts small and doubles as long as that advances rows faster per second; `auto:N`
    searches anew each time another Nth of the queue is done, since prompts become shorter.
    """

    def __init__(self, wanted: int | str, max_rows: int = MAX_ROWS) -> None:
        """Read "auto", "auto:N" or a number of rows; `max_rows` bounds a search.

        Raises:
            ConfigError: it is none of these.
        """
        self.wanted, self.max_wanted = wanted, max_rows
        wanted = check_batch_size(wanted)
        self._max_rows = max(1, max_rows)
        self._searches = num_searches(wanted)
        self.rows = min(FIRST_ROWS, self._max_rows) if isinstance(wanted, str) else wanted
        self._queue = 0
        self._searched = 0
        self._best: tuple[int, float] | None = None  # rows, rows per second
        self._seconds: list[float] = []
        self._is_searching = False

    def start(self, num_requests: int) -> None:
        """A new queue."""
        self._queue = num_requests
        self._searched = 0

    def note(self, num_rows: int, num_waiting: int, seconds: float) -> None:
        """One round of `num_rows` took this long, while `num_waiting` requests had no row."""
        done = self._queue - num_waiting
        if (
            self._searched < self._searches
            and done * self._searches >= self._searched * self._queue
        ):
            self._searched += 1
            self._is_searching = True
            self._best, self._seconds = None, []
        if not self._is_searching or num_rows != self.rows:
            return
        self._seconds.append(seconds)
        if len(self._seconds) == TRIAL_ROUNDS:
            self._decide(num_rows / median(self._seconds))
            self._seconds = []

    def _decide(self, rate: float) -> None:
        if self._best is not None and rate < WORTHWHILE * self._best[1]:
            self.rows = self._best[0]
            self._is_searching = False
            return
        self._best = (self.rows, rate)
        self._is_searching = self.rows < self._max_rows
        self.rows = min(2 * self.rows, self._max_rows)

    def halve(self, num_rows: int) -> None:
        """`num_rows` did not fit: at most half as many from now on."""
        self.rows = self._max_rows = max(1, num_rows // 2)
        self._is_searching = False
