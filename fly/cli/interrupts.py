"""Messages after Ctrl-C, on what is kept and how to resume."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NOTHING = "nothing had been decoded yet: give the same command again"
_JOURNAL_HEADER = 1  # line
_ANSWER = b'{"kind": "answer"'  # how a line of answers.jsonl begins that holds an answer


class Interrupted(KeyboardInterrupt):
    """An interrupt whose message names what is kept."""


@contextmanager
def telling(kept: Callable[[], str]) -> Iterator[None]:
    """Let an interrupt of the block name what is kept.

    Raises:
        Interrupted: the block was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(kept()) from error


def line(error: KeyboardInterrupt) -> str:
    """The message; nothing by processes other than the first of several."""
    if os.environ.get("RANK", "0") != "0":
        return ""
    told = str(error) if isinstance(error, Interrupted) else NOTHING
    return f"fly: interrupted; {told}"


def in_journals(journal: Path) -> tuple[int, str]:
    """How many answers are kept in a journal and in those of other processes beside it, and words
    for it that an error or a line can end with."""
    common, _, _ = str(journal).rpartition("_rank")
    files = glob.glob(f"{glob.escape(common)}_rank*.jsonl")
    number = sum(max(0, Path(file).read_bytes().count(b"\n") - _JOURNAL_HEADER) for file in files)
    return number, f"{_count(number)} kept in {journal}: the same command goes on from there"


def in_workbench(folder: str | None) -> str:
    """What `fly compare` or `fly sweep` has kept in its output folder."""
    if folder is None:
        return "nothing is kept without --output_path FOLDER"
    places = [Path(folder) / name for name in ("answers.jsonl", "heldout/answers.jsonl")]
    files = [place for place in places if place.is_file()]
    number = 0
    for file in files:
        with file.open("rb") as lines:
            number += sum(line.startswith(_ANSWER) for line in lines)
    if number == 0:
        return NOTHING
    where = " and ".join(str(file) for file in files)
    return f"{_count(number)} kept in {where}: the same command with --resume goes on from there"


def _count(number: int) -> str:
    return "1 answer is" if number == 1 else f"{number:,} answers are"
