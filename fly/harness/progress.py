"""The progress bar over requests, on standard error.  It shows tokens/s and the mean acceptance
length so far."""

from __future__ import annotations

import time

from fly.engine import Statistics
from fly.terminal import progress


class DecodingProgress:
    """`with DecodingProgress(total) as progress:`; `on_round` reads running totals, `advance`
    counts answers."""

    def __init__(self, total: int, *, disable: bool = False) -> None:
        """`total` is the number of requests."""
        self._bar = progress(disable=disable)
        self._task = self._bar.add_task("Decoding", total=total, state="")
        self._start_s = time.perf_counter()

    def __enter__(self) -> DecodingProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def on_round(self, total: Statistics) -> None:
        """Show tokens per second of wall time and the mean acceptance length, from the totals of
        this call so far."""
        elapsed_s = time.perf_counter() - self._start_s
        tau = total.metrics().get("mean_acceptance_length")
        state = f"{total.emitted / elapsed_s:,.0f} tokens/s" if elapsed_s > 0 else ""
        self._bar.update(self._task, state=state + (f"  τ {tau:.2f}" if tau is not None else ""))

    def say(self, state: str) -> None:
        """Show what goes on before the first round."""
        self._bar.update(self._task, state=f"{state} …")

    def advance(self) -> None:
        """One more answer is there."""
        self._bar.advance(self._task)
