"""The summary table under lm-eval's own.  It shows speed, tokens per round and how much was
loosened, per task and overall."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fly.terminal import console, make_table, say

if TYPE_CHECKING:
    from lm_eval.loggers import EvaluationTracker

    from fly.harness.records import RequestRecord

_NUMBERS = ("requests", "tokens", "rounds", "tokens/s", "τ", "accepted", "loose")
_FILE_WIDTH = 120  # columns, where the output is no terminal


def print_summary(block: dict[str, Any]) -> None:
    """Print the results block of a run on standard output."""
    table = make_table("Speculative decoding", _NUMBERS, first="task")
    for task, pooled in block["tasks"].items():
        table.add_row(task, *_cells(pooled))
    table.add_section()
    table.add_row("overall", *_cells(block["overall"]))
    console(width=_FILE_WIDTH).print(table)
    say(_legend(block))
    for remark in block.get("remarks", []):
        say(f"{remark}.")


def _cells(pooled: dict[str, Any]) -> list[str]:
    counters, metrics = pooled["counters"], pooled["metrics"]
    return [
        f"{pooled['requests']:,}",
        f"{counters['emitted']:,}",
        f"{counters['rounds']:,}",
        _number(metrics.get("tokens_per_s"), "{:,.0f}"),
        _number(metrics.get("mean_acceptance_length"), "{:.2f}"),
        _number(metrics.get("acceptance_rate"), "{:.1%}"),
        _number(metrics.get("loose_share"), "{:.2%}"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _legend(block: dict[str, Any]) -> str:
    draft = block["draft"]["path"] if block["draft"] else "no draft model"
    num_resumed = block["overall"]["resumed"]
    resumed = (
        f"\n{num_resumed:,} of {block['overall']['requests']:,} requests were decoded by earlier "
        "runs (--use_cache); their counters and seconds are those of then."
        if num_resumed
        else ""
    )
    unfinished = block["overall"]["counters"]["unfinished_thinking"]
    thinking = (
        f"\n{unfinished:,} of {block['overall']['requests']:,} answers ended inside their "
        "thinking: what think_end_token names never came; allow them more tokens (--gen_kwargs "
        "max_gen_toks=N), or check the marker."
        if unfinished
        else ""
    )
    several = (
        f"tokens/s: of each of the {block['processes']} processes.\n"
        if block["processes"] > 1
        else ""
    )
    copies = (
        "loosen_copied: tokens that were copied from the context were loosened, so answers may be "
        "copies of the prompt.\n"
        if block.get("loosens_copies")
        else ""
    )
    return (
        "τ: tokens per round, bonus included.  accepted: of the proposed.  loose: of the emitted.\n"
        f"{several}{copies}"
        f"target {block['target']['path']}, draft {draft}, batch {block['batch_size']}{resumed}"
        f"{thinking}"
    )


def write_request_log(tracker: EvaluationTracker, records: Sequence[RequestRecord]) -> list[Path]:
    """Write `speculative_<task>_<time>.jsonl` for each task and return the files.

    Args:
        tracker: lm-eval's, after it has saved the results; it holds where and under which time
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
