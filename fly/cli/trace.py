"""The flag `fly run --trace`, which saves every answer with its rounds."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from fly.errors import ConfigError


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
