"""Additions to lm-eval's `run` (--trace, summary table, request log).  --trace writes every answer
with its rounds to a file below the output path.  The table under lm-eval's own shows speed, tokens
per round and how much was loosened.  --log_samples adds a file of requests."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fly.errors import ConfigError
from fly.terminal import console, make_table, say

if TYPE_CHECKING:
    from lm_eval.loggers import EvaluationTracker

    from fly.harness.records import RequestRecord
_NUMBERS = ("requests", "tokens", "rounds", "tokens/s", "τ", "accepted", "loose")
_FILE_WIDTH = 120  # columns, where the output is no terminal


def add_trace_flag(parser: argparse.ArgumentParser) -> None:
    """Teach lm-eval's `run` the flag."""
    parser.add_argument(
        "--trace",
        action="store_true",
        help="write every answer with its rounds to answers_<time>.jsonl below --output_path "
        "(models with a config_path only)",
    )


def take_trace_flag(namespace: argparse.Namespace) -> bool:
    """The flag, taken off: lm-eval refuses what it does not take."""
    trace = bool(namespace.trace)
    del namespace.trace
    return trace


def check_trace(config: Any) -> None:
    """Whether lm-eval's merged configuration can be traced; nothing has been loaded.

    Raises:
        ConfigError: there is no output path, or the model is not ours.
    """
    if config.model != "fly":
        raise ConfigError(
            f"--trace is of speculative decoding, and the model is {config.model!r}",
            fix="give a config_path among --model_args, or leave --trace out",
        )
    if not config.output_path:
        raise ConfigError(
            "--trace needs a place to write to, and --output_path is not given",
            fix="add --output_path FOLDER",
        )


def trace_path(output_path: str, rank: int, num_processes: int) -> Path:
    """The file of one process: `answers_<start time>.jsonl` in the output folder, or beside the
    results where the output path is their file; with several processes the rank is in the name.

    lm-eval's own folder below it is called by the model's name and known only at the end.
    """
    output = Path(output_path)
    folder = output.parent if output.suffix == ".json" else output
    # As lm-eval writes its time stamps.
    stamp = datetime.datetime.now().isoformat().replace(":", "-")
    rank_part = f"_rank{rank}" if num_processes > 1 else ""
    return folder / f"answers_{stamp}{rank_part}.jsonl"


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
