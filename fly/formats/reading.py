"""Readers of this package's files.  They check the version, bring older files up to date, drop a
line that was only half written and refuse what is damaged, naming file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fly import plain_json
from fly.errors import ReportError, quoted
from fly.formats.answers import Answer, Header
from fly.formats.base import Format
from fly.formats.comparison import Comparison, Item
from fly.formats.sweep import Sweep

ANSWERS_VERSION = 2

Record = dict[str, Any]
Step = Callable[[Record], Record]
Kind = TypeVar("Kind", bound=Format)


def _add_origins(answer: Record) -> Record:
    """Version 0 knew no origins and no rounds."""
    return {"origins": "", "round_lens": [], "rounds": None, **answer}


def _add_is_lossless(sweep: Record) -> Record:
    """Version 1 did not record of points whether they are lossless."""
    points = _with(sweep.get("points"), {"is_lossless": None})
    return sweep | {"fly_sweep": 2, "points": points}


def _add_points(sweep: Record) -> Record:
    """Version 2 knew margins as shares only; its held-out comparison is of version 1."""
    heldout = sweep.get("heldout")
    if isinstance(heldout, dict):
        heldout = _add_metrics(heldout)
    points = _with(sweep.get("points"), {"points_lower": None})
    more = {"fly_sweep": 3, "margin_points": None, "points": points, "heldout": heldout}
    return sweep | more


def _add_metrics(comparison: Record) -> Record:
    """Version 1 did not record which metric decides, nor of how many items scores are, and compared
    one only."""
    tasks = comparison.get("tasks")
    if isinstance(tasks, list):
        tasks = [_add_metric(task) if isinstance(task, dict) else task for task in tasks]
    return comparison | {"fly_compare": 2, "margin_points": None, "tasks": tasks}


def _add_metric(task: Record) -> Record:
    methods, metric = task.get("methods"), None
    if isinstance(methods, list):
        methods = [_add_num_items(one) if isinstance(one, dict) else one for one in methods]
        compared = [one for one in methods if isinstance(one, dict) and one.get("paired")]
        score = compared[0].get("score") if compared else None
        if isinstance(score, dict):
            metric = f"{score.get('metric')},{score.get('filter')}"
    return {"metric": metric, "point": 0.01} | task | {"methods": methods}


def _add_num_items(method: Record) -> Record:
    [score] = _with([method.get("score")], {"num_items": None})
    others = _with(method.get("other_scores"), {"num_items": None, "paired": None})
    return method | {"score": score, "other_scores": others}


def _add_shares(comparison: Record) -> Record:
    """Version 2 did not tell what rounds are spent on."""
    tasks = comparison.get("tasks")
    if isinstance(tasks, list):
        tasks = [
            task | {"methods": _with(task.get("methods"), {"shares": None})}
            if isinstance(task, dict)
            else task
            for task in tasks
        ]
    return comparison | {"fly_compare": 3, "tasks": tasks}


def _add_heldout_shares(sweep: Record) -> Record:
    """The held-out comparison of version 3 is of version 2."""
    heldout = sweep.get("heldout")
    if isinstance(heldout, dict):
        heldout = _add_shares(heldout)
    return sweep | {"fly_sweep": 4, "heldout": heldout}


def _with(records: Any, more: Record) -> Any:
    """Keys that records lack."""
    if not isinstance(records, list):
        return records
    return [more | each if isinstance(each, dict) else each for each in records]


# What turns a record of version i into one of version i + 1; none: the record did not change.
_ANSWER_STEPS: Sequence[Step] = (_add_origins, dict)  # 1: no checksum
_COMPARE_STEPS: Sequence[Step] = (_add_metrics, _add_shares)  # from version 1
_SWEEP_STEPS: Sequence[Step] = (_add_is_lossless, _add_points, _add_heldout_shares)


@dataclass(frozen=True)
class AnswersFile:
    """What an answers.jsonl holds.  `notes` lists what had to be left out."""

    path: Path
    header: Header
    answers: list[Answer]
    notes: list[str]


def read_comparison(path: Path) -> Comparison:
    """Open a compare.json.

    Raises:
        ReportError: it is missing, damaged or of a version that is not read.
    """
    return _read_result(Comparison, path, "fly_compare", _COMPARE_STEPS)


def read_sweep(path: Path) -> Sweep:
    """Open a sweep.json; raises as `read_comparison`."""
    return _read_result(Sweep, path, "fly_sweep", _SWEEP_STEPS)


def _read_result(kind: type[Kind], path: Path, key: str, steps: Sequence[Step]) -> Kind:
    """A file of one object, whose version stands under `key` and began with 1."""
    record = read_object(path)
    for step in steps[_check_version(record, key, path, 1, 1 + len(steps)) - 1 :]:
        record = step(record)
    return _validated(kind, record, str(path))


def read_items(path: Path) -> tuple[list[Item], list[str]]:
    """The items of an items.jsonl and notes on what was left out; raises as `read_comparison`."""
    notes: list[str] = []
    lines = read_lines(path, notes)
    return [_validated(Item, line, f"{path}:{number}") for number, line in lines], notes


def read_answers(path: Path) -> AnswersFile:
    """Open an answers.jsonl.  An answer that a resumed run wrote again counts once, as first
    written; lines of other kinds are left to those who wrote them.

    Raises:
        ReportError: it is missing, damaged, of a version that is not read, or has no header.
    """
    notes: list[str] = []
    lines = read_lines(path, notes)
    number, first = next(lines, (0, {}))
    if number == 0:
        raise ReportError(f"{path} is empty", fix="run the command that wrote it again")
    version = _check_version(first, "fly_answers", path, 0, ANSWERS_VERSION)
    header = _validated(Header, first | {"fly_answers": ANSWERS_VERSION}, f"{path}:{number}")
    found: dict[tuple[object, ...], Answer] = {}
    for number, line in lines:
        if "method" not in line or "token_ids" not in line:
            continue
        for step in _ANSWER_STEPS[version:]:
            line = step(line)
        answer = _validated(Answer, line, f"{path}:{number}")
        found.setdefault(identity(answer), answer)
    return AnswersFile(path, header, list(found.values()), notes)


def identity(answer: Answer) -> tuple[object, ...]:
    """What two records of one answer share."""
    place = (answer.doc_id, answer.doc_hash, answer.idx, answer.repeat)
    return (answer.method, answer.task, *place)


def read_object(path: Path) -> Record:
    """A file that is one JSON object; raises as `read_comparison`."""
    try:
        record = plain_json.loads(_bytes(path))
    except ValueError as error:
        raise ReportError(
            f"{path} is damaged: {error}", fix="write it again with the command that made it"
        ) from error
    if not isinstance(record, dict):
        raise ReportError(
            f"{path} holds a {type(record).__name__}, but an object is expected",
            fix="name the folder that --output_path was given",
        )
    return record


def read_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, Record]]:
    """Number and object of every line.  A last line that was only half written is dropped and noted
    in `notes`; any other damage raises."""
    raw = _bytes(path).split(b"\n")
    last = max((number for number, line in enumerate(raw, start=1) if line.strip()), default=0)
    is_cut = bool(raw[-1].strip())  # the file does not end with a line feed
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            continue
        try:
            record = plain_json.unseal(plain_json.loads(line))
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__} where an object is expected")
        except ValueError as error:
            if number == last and is_cut:
                notes.append(f"{path.name}: line {number} was only half written and is left out.")
                return
            raise ReportError(
                f"{path}:{number} is damaged: {error}",
                fix="delete the line, or write the file again with the command that made it",
            ) from error
        yield number, record


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read: {error.strerror or error}",
            fix="name the folder that --output_path was given",
        ) from error


def _check_version(record: Record, key: str, path: Path, oldest: int, newest: int) -> int:
    version = record.get(key)
    if not isinstance(version, int) or isinstance(version, bool):
        raise ReportError(
            f"{path} does not tell its version: key {key!r} is {version!r}",
            fix="name the folder that `fly compare`, `fly sweep` or `fly run --trace` wrote to",
        )
    if not oldest <= version <= newest:
        raise ReportError(
            f"{path} was written by version {version} of the format; this reads {oldest} up to "
            f"{newest}",
            fix="install a newer fly-decoding, or write the file again with this one",
        )
    return version


def reason(error: Exception) -> str:
    """What is wrong with a record, with the key where that is known."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"[:200]
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key[:60]}: {first['msg']}, got {quoted(first['input'])}"


def _validated(kind: type[Kind], record: Record, place: str) -> Kind:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        raise ReportError(
            f"{place} is no valid {kind.__name__}: {reason(error)}",
            fix="write the file again with the command that made it",
        ) from error
