"""The results of a folder, whichever command wrote them.  `fly compare`, `fly sweep` or `fly run
--trace`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fly.errors import ReportError
from fly.formats import comparison, sweep
from fly.formats.answers import Answer
from fly.formats.comparison import Comparison, Item
from fly.formats.reading import (
    AnswersFile,
    identity,
    read_answers,
    read_comparison,
    read_items,
    read_sweep,
)
from fly.formats.sweep import Sweep
from fly.report.harness import Run, date_of, read_run


@dataclass(frozen=True)
class Results:
    """A folder, read.  At least one of `comparison`, `sweep`, `run` and `answers` has content."""

    folder: Path
    comparison: Comparison | None  # a sweep's held-out one
    sweep: Sweep | None
    run: Run | None  # where neither compare nor sweep wrote
    answers: list[Answer]
    windows: dict[str, int]  # by method: tokens inspected after a loose one
    settings: dict[str, Any]  # of the answers' header
    items: list[Item]
    notes: list[str]  # what a reader must know of missing or half-written files


def load_folder(folder: Path) -> Results:
    """Read what is there.

    Raises:
        ReportError: the folder does not exist, holds no results, or a file in it is damaged or of
            another version.
    """
    if not os.path.isdir(folder):  # Path.is_dir raises where a name is too long
        raise ReportError(
            f"{folder} is no folder", fix="name the folder that --output_path was given"
        )
    compared = _if_there(folder / comparison.FILE_NAME, read_comparison)
    swept = _if_there(folder / sweep.FILE_NAME, read_sweep)
    notes: list[str] = []
    files = [read_answers(path) for path in _answer_files(folder)]
    answers, windows = _merge(files, notes)
    run = read_run(folder, answers) if compared is None and swept is None else None
    found_items = run.items if run else _read_all_items(folder, notes)
    if swept is not None and swept.heldout is not None:
        compared = swept.heldout
    _refuse_empty(folder, compared, swept, run, answers)
    if run is not None:
        notes += run.notes
        if any(path.name == "answers.jsonl" for path in _answer_files(folder)):
            notes.append(
                "There is no compare.json: the comparison was not finished. "
                "`fly compare … --resume` goes on with it."
            )
    if not answers:
        notes.append("There are no answers here, so no tokens can be shown.")
    settings = files[0].header.settings if files else {}
    return Results(folder, compared, swept, run, answers, windows, settings, found_items, notes)


def _if_there(path: Path, read: Any) -> Any:
    return read(path) if path.exists() else None


def _answer_files(folder: Path) -> list[Path]:
    """The newest first.  Those of runs lie in folders of their own, named after the model."""
    return sorted(folder.rglob("answers*.jsonl"), key=lambda path: (date_of(path), str(path)))[::-1]


def _merge(files: list[AnswersFile], notes: list[str]) -> tuple[list[Answer], dict[str, int]]:
    """Answers of all files; of a task and method that was run several times only those of the
    newest run."""
    answers: dict[tuple[object, ...], Answer] = {}
    windows: dict[str, int] = {}
    newest: dict[tuple[str, str], str] = {}
    for file in files:
        notes += file.notes
        date, num_left_out = date_of(file.path), 0
        for answer in file.answers:
            if newest.setdefault((answer.task, answer.method), date) == date:
                answers.setdefault(identity(answer), answer)
            else:
                num_left_out += 1
        if num_left_out:
            notes.append(f"{file.path.name}: {num_left_out} answers of an older run are left out.")
        for name, settings in file.header.methods.items():
            window = settings.get("window")
            if isinstance(window, int):
                windows.setdefault(name, window)
    return list(answers.values()), windows


def _read_all_items(folder: Path, notes: list[str]) -> list[Item]:
    found: list[Item] = []
    for path in sorted(folder.rglob(comparison.ITEMS_NAME)):
        some, told = read_items(path)
        found += some
        notes += told
    return found


def _refuse_empty(
    folder: Path,
    compared: Comparison | None,
    swept: Sweep | None,
    run: Run | None,
    answers: list[Answer],
) -> None:
    has_content = (
        (compared is not None and any(task.methods for task in compared.tasks))
        or (swept is not None and bool(swept.points))
        or (run is not None and bool(run.tasks))
        or bool(answers)
    )
    if not has_content:
        raise ReportError(
            f"{folder} holds no results: no task of a compare.json, no point of a sweep.json, no "
            "answer of an answers.jsonl, no score of a results_*.json",
            fix="name the folder that `fly compare`, `fly sweep` or `fly run --trace` wrote to, "
            "or run it to its end",
        )
