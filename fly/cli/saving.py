"""Checked saving of a run's files, before any table is printed.  lm-eval only logs that it could
not save a file, and goes on.  Here each file is checked, written to another place where it is not
whole, and reported at the end."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fly.cli.run import run_folder, write_request_log
from fly.errors import OutputError, shortened

if TYPE_CHECKING:
    from lm_eval.loggers import EvaluationTracker

    from fly.harness.records import RequestRecord

_EXCEPTION = re.compile(r"[A-Za-z_.]+\(.*\)", re.DOTALL)


class ResultSaver:
    """Takes the place of a tracker's two methods that save."""

    def __init__(
        self, tracker: EvaluationTracker, records: Sequence[RequestRecord], *, log_requests: bool
    ) -> None:
        """Nothing is written yet.

        Args:
            tracker: lm-eval's, of one evaluation.
            records: of all requests.
            log_requests: write their file, too, as soon as the results are saved.
        """
        self._tracker = tracker
        self._records = records if log_requests else []
        self._output_path = tracker.output_path
        self._rescue = ""
        self._failed: list[str] = []  # files that are not where they were asked for
        self._reasons: list[str] = []
        self._lost = False  # one of them is nowhere
        self.is_done = False  # results are somewhere
        self._save_results = tracker.save_results_aggregated
        self._save_samples = tracker.save_results_samples
        tracker.save_results_aggregated = self.save_results
        tracker.save_results_samples = self.save_samples

    def save_results(self, results: dict[str, Any], samples: Any = None) -> None:
        """lm-eval's, and the file of requests."""
        if not self._output_path:
            self._save_results(results=results, samples=samples)
            return
        self._save(lambda: self._try_results(results, samples))
        if self._records:
            self._save(self._try_requests)
        self.is_done = not self._lost

    def save_samples(self, task_name: str, samples: Sequence[dict[str, Any]]) -> None:
        """lm-eval's."""
        if not self._output_path:
            self._save_samples(task_name=task_name, samples=samples)
        else:
            self._save(lambda: self._try_samples(task_name, samples))

    def check(self, kept: Callable[[], str]) -> None:
        """Report what could not be written where it was asked for.

        Args:
            kept: returns what of the run is kept beside its files, in words; may be empty.

        Raises:
            OutputError: there is such a file.
        """
        if not self._failed:
            return
        # Both may hold long paths, and what is kept must be seen after them.
        reason = shortened(self._reasons[0] if self._reasons else "it is not whole")
        others = f" and {len(self._failed) - 1} more files" if len(self._failed) > 1 else ""
        message = f"{shortened(self._failed[0])}{others}: cannot be written: {reason}"
        if self._lost:
            told = kept() or "nothing is kept without --use_cache PATH"
            raise OutputError(f"{message}; {told}", fix="make room, or name another --output_path")
        raise OutputError(f"{message}; written to {self._rescue} instead", fix="move it from there")

    def _save(self, write: Callable[[], Path | None]) -> None:
        """Write a file, and where that fails into another place.

        Args:
            write: writes below the tracker's `output_path`; returns the file if it is not whole.
        """
        self._tracker.output_path = self._output_path
        failed = write()
        if failed is None:
            return
        self._failed.append(str(failed))
        if not self._rescue and not self._lost:
            try:
                self._rescue = tempfile.mkdtemp(prefix="fly_results_")
            except OSError:
                self._lost = True
        if self._rescue:
            self._tracker.output_path = self._rescue
            is_lost = write() is not None
            self._tracker.output_path = self._output_path
            self._lost |= is_lost
            for half in [] if is_lost else failed.parent.glob(failed.name):
                half.unlink()  # nobody is to take it for a whole one

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """lm-eval keeps what went wrong to itself, but for its log."""
        logger = logging.getLogger(type(self._tracker).__module__)
        handler = _Reasons(self._reasons)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def _try_results(self, results: dict[str, Any], samples: Any) -> Path | None:
        self._tracker.date_id = ""
        with self._listening():
            self._save_results(results=results, samples=samples)
        asked, folder = Path(self._tracker.output_path), run_folder(self._tracker)
        stem = asked.stem if asked.suffix == ".json" else "results"
        path = folder / f"{stem}_{self._tracker.date_id}.json"
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return path
        return None

    def _try_samples(self, task: str, samples: Sequence[dict[str, Any]]) -> Path | None:
        # lm-eval changes what it is given, and could not write it again.
        with self._listening():
            self._save_samples(task_name=task, samples=[dict(sample) for sample in samples])
        path = run_folder(self._tracker) / f"samples_{task}_{self._tracker.date_id}.jsonl"
        try:
            with path.open("rb") as file:
                is_whole = sum(1 for _ in file) == len(samples) and _ends_a_line(path)
        except OSError:
            return path
        return None if is_whole else path

    def _try_requests(self) -> Path | None:
        try:
            write_request_log(self._tracker, self._records)
        except OSError as error:
            self._reasons.append(error.strerror or str(error))
            return run_folder(self._tracker) / f"speculative_*_{self._tracker.date_id}.jsonl"
        return None


class _Reasons(logging.Handler):
    """Takes down what lm-eval gives as the reason: the exception, as Python shows it."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(logging.INFO)
        self._reasons = reasons

    def emit(self, record: logging.LogRecord) -> None:
        """Take down what is an exception."""
        text = record.getMessage()
        if _EXCEPTION.match(text):
            self._reasons.append(text)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
