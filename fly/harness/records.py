"""Records of requests, and a run's summary in lm-eval's results.  The summary is overall, per task,
and what was run.  Always valid JSON: what is undefined is null, what is infinite is a string."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fly.engine import Statistics
from fly.engine.plain_rounds import remark

if TYPE_CHECKING:
    from fly.config import FLyConfig


@dataclass(frozen=True)
class RequestRecord:
    """One finished request: where it came from, how it ended, what decoding did.

    `doc_hash` is that of lm-eval's sample files, whose `resps[i][copy]` is the answer; i counts the
    document's indices in order, and most tasks have one, 0.
    """

    task: str
    doc_id: int | None  # as lm-eval asks; under --samples the sample files number otherwise
    doc_hash: str | None
    idx: int  # of the request among those of its document
    copy: int  # among the task's `repeats` of the request
    finish_reason: str
    num_tokens: int
    statistics: Statistics
    resumed: bool = False  # decoded by an earlier run, taken from the journal

    def to_line(self) -> dict[str, Any]:
        """The record as one line of the per-request file."""
        line = {
            "task": self.task,
            "doc_id": self.doc_id,
            "doc_hash": self.doc_hash,
            "idx": self.idx,
            "copy": self.copy,
            "finish_reason": self.finish_reason,
            "num_tokens": self.num_tokens,
            "resumed": self.resumed,
            "counters": self.statistics.to_dict(),
            "metrics": self.statistics.metrics(),
        }
        result: dict[str, Any] = to_json(line)
        return result


def summarise(records: Sequence[RequestRecord]) -> dict[str, Any]:
    """Counters, pooled metrics and ways of ending: `overall`, and under `tasks` for each task in
    the order decoded."""
    by_task: dict[str, list[RequestRecord]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    return {
        "overall": _pool(records),
        "tasks": {task: _pool(some) for task, some in by_task.items()},
    }


def remarks(block: Mapping[str, Any], config: FLyConfig, batch_size: int | str) -> list[str]:
    """Where speculation was slower than plain decoding: by task, or overall where no single task
    had enough rounds to judge.

    Args:
        block: of `summarise`.
        config: what was decoded with.
        batch_size: rows decoded at once.
    """

    def found(name: str, pooled: Mapping[str, Any]) -> list[str]:
        said = remark(Statistics(**pooled["counters"]), config.setup, batch_size)
        return [] if said is None else [f"{name}: {said}"]

    by_task = [said for task, pooled in block["tasks"].items() for said in found(task, pooled)]
    return by_task or found("overall", block["overall"])


def to_json(value: Any) -> Any:
    """The value with numbers that JSON does not have spelled out: NaN as null, infinities as
    strings."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _pool(records: Iterable[RequestRecord]) -> dict[str, Any]:
    records = list(records)
    total = sum((record.statistics for record in records), Statistics())
    pooled: dict[str, Any] = to_json(
        {
            "requests": len(records),
            "resumed": sum(record.resumed for record in records),
            "finish_reasons": dict(Counter(record.finish_reason for record in records)),
            "counters": total.to_dict(),
            "metrics": total.metrics(),
        }
    )
    return pooled
