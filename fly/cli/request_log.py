"""One JSON line per decoded request, beside the sample files of lm-eval and with the same time
stamp."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval.loggers import EvaluationTracker

    from fly.backend.records import RequestRecord


def write_request_log(tracker: EvaluationTracker, records: Sequence[RequestRecord]) -> list[Path]:
    """Write `speculative_<task>_<time>.jsonl` for each task and return the files.

    Args:
        tracker: lm-eval's, after it has saved the results; it says where and under which time
            stamp.
    """
    if not tracker.output_path:
        return []
    folder = run_folder(tracker)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[str]] = {}
    for record in records:
        line = json.dumps(record.to_line(), ensure_ascii=False, allow_nan=False)
        files.setdefault(f"speculative_{record.task}_{tracker.date_id}.jsonl", []).append(line)
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [folder / name for name in files]


def run_folder(tracker: EvaluationTracker) -> Path:
    """Where lm-eval writes: beside a results file that was named, or in a folder named after the
    model."""
    path = Path(str(tracker.output_path))
    if path.suffix == ".json":
        return path.parent
    return path / str(tracker.general_config_tracker.model_name_sanitized)
