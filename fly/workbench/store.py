"""The output folder of a comparison, from which a killed run resumes.  Every finished answer and
block is a line of answers.jsonl; the results are written beside it at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fly import places
from fly.engine import Result
from fly.errors import ConfigError, JournalError
from fly.formats import answers as format_
from fly.formats.answers import Answer, Block, Header, PlainSpeeds, Rung
from fly.formats.base import Format
from fly.harness.journal import LineFile, read_line, read_lines
from fly.harness.tracing import writing
from fly.workbench.methods import Method
from fly.workbench.tasks import Asked, Key

VERSION = Header.model_fields["fly_answers"].default
MakeAnswer = Callable[[Method, Asked, Result], Answer]


def check_folder(folder: Path, result_name: str, *, resume: bool) -> None:
    """Refuse a folder that holds another run's work, before anything is loaded.

    Raises:
        ConfigError: it is a file, holds answers or results and `resume` was not given, or cannot
            be written to.  With `resume` an empty one is started anew: the run may have been
            killed while it loaded.
    """
    folder = places.user_path(folder, "--output_path")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"--output_path {str(folder)!r} is a file", fix="name a folder, new or empty"
        )
    found = [name for name in (format_.FILE_NAME, result_name) if (folder / name).exists()]
    if found and not resume:
        raise ConfigError(
            f"--output_path {str(folder)!r} already holds {found[0]}",
            fix="say --resume to go on with that run, or name another folder",
        )
    places.check_folder(folder, "--output_path")


def check_header(folder: Path, known: Mapping[str, Any]) -> None:
    """Compare a file of answers with those settings of a run that are known early.  A file without
    a whole first line passes: it is begun anew.

    Raises:
        JournalError: it is of another version or other settings, or cannot be read.
    """
    path = folder / format_.FILE_NAME
    found = _settings_in(path)
    if found is None:
        return
    ours = json.loads(json.dumps(known))
    differing = _differing({name: found.get(name) for name in ours}, ours)
    if differing:
        raise _other_settings(path, differing)


def known_hardware(folder: Path) -> Mapping[str, Any]:
    """What a run was begun on; empty where there is none.

    Raises:
        JournalError: it is of another version, or cannot be read.
    """
    found = (_settings_in(folder / format_.FILE_NAME) or {}).get("hardware")
    return found if isinstance(found, Mapping) else {}


def _settings_in(path: Path) -> Mapping[str, Any] | None:
    """The settings in the first line of a file of answers; None where it has none."""
    if not path.exists():
        return None
    with writing(path):
        lines, _ = read_lines(path)
    if not lines:
        return None
    try:
        line = read_line(lines[0])
        found = dict(line["settings"]) if line.get("fly_answers") == VERSION else {}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # opening the store names what is wrong
    _check_version(path, line)
    return found


def _check_version(path: Path, line: Mapping[str, Any]) -> None:
    found = line.get("fly_answers")
    if found != VERSION:
        raise JournalError(
            f"{path}: written in version {found!r} of this format, and {VERSION} is what can be "
            "gone on with",
            fix="name another --output_path; `fly report` reads older versions",
        )


def _other_settings(path: Path, differing: Sequence[str]) -> JournalError:
    return JournalError(
        f"{path}: belongs to a run with other settings: {', '.join(differing)}",
        fix="resume it with the command it was started with, or name another --output_path",
    )


class Store:
    """`with Store(...) as store:` holds what is finished; takes what finishes."""

    def __init__(self, folder: Path, header: Header, make_answer: MakeAnswer) -> None:
        self._is_empty = False  # holds nothing but a header of our own
        self._header = header
        self._make_answer = make_answer
        self.answers: dict[str, dict[Key, Answer]] = {}  # by method
        self.blocks: list[Block] = []
        self.search: dict[str, float] = {}
        self.rungs: list[Rung] = []  # finished ones
        self.rounds_decoded = 0  # by a sweep, in all
        self._file = LineFile(folder / format_.FILE_NAME)

    def __enter__(self) -> Store:
        """Open the file and read what an earlier run has finished.

        Raises:
            JournalError: another process writes to it, it is damaged, or it belongs to other
                settings.
        """
        with writing(self._file.path):
            self._file.open()
        try:
            with writing(self._file.path):
                lines, num_bytes = read_lines(self._file.path)
                self._file.cut(num_bytes)
            if lines:
                self._read(lines)
            else:
                self._append(self._header)
                self._is_empty = True
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file.  One that nothing was added to goes: the same command can be given
        again, and another one, too.
        """
        if self._is_empty:
            self._file.path.unlink(missing_ok=True)
        self._file.close()

    def has(self, method: str, key: Key) -> bool:
        """Whether a method's answer is there."""
        return key in self.answers.get(method, {})

    def answer(self, method: Method, ready: Asked, result: Result) -> Answer:
        """What would be saved of a result."""
        return self._make_answer(method, ready, result)

    def keep(self, method: Method, ready: Asked, result: Result) -> None:
        """Save an answer; it is the operating system's when this returns."""
        answer = self.answer(method, ready, result)
        self._append(answer)
        self.answers.setdefault(method.name, {})[ready.key] = answer

    def keep_block(self, block: Block) -> None:
        """Save what a block took."""
        self._append(block)
        self.blocks.append(block)

    def keep_search(self, speeds: Mapping[str, float]) -> None:
        """Save the speeds of plain decoding."""
        self.search = dict(speeds)
        self._append(PlainSpeeds(search=self.search))

    def keep_rung(self, rung: Rung) -> None:
        """Save what became of a part of a sweep."""
        self._append(rung)
        self._take_rung(rung)

    def _take_rung(self, rung: Rung) -> None:
        self.rounds_decoded += rung.rounds_decoded
        if rung.stopped is not None:
            self.rungs.append(rung)

    def _append(self, line: Format) -> None:
        self._is_empty = False
        with writing(self._file.path):
            self._file.append(line.model_dump())

    def _read(self, lines: Sequence[bytes]) -> None:
        for number, text in enumerate(lines, start=1):
            try:
                line = read_line(text)
                if number == 1:
                    self._check_header(line)
                elif "block" in line:
                    self.blocks.append(Block.model_validate(line))
                elif "rung" in line:
                    self._take_rung(Rung.model_validate(line))
                elif "search" in line:
                    self.search = PlainSpeeds.model_validate(line).search
                else:
                    answer = Answer.model_validate(line)
                    key = (answer.task, answer.doc_id, answer.idx, answer.repeat)
                    self.answers.setdefault(answer.method, {})[key] = answer
            except JournalError:
                raise
            except (ValueError, TypeError, AttributeError) as error:
                raise JournalError(
                    f"{self._file.path}, line {number}: not a line of a file of answers "
                    f"({type(error).__name__})",
                    fix="delete that line to decode its request again, or the file to start anew"
                    if number > 1
                    else "delete the file to start anew, or name another --output_path",
                ) from error

    def _check_header(self, line: Mapping[str, Any]) -> None:
        _check_version(self._file.path, line)
        if line.get("fingerprint") != self._header.fingerprint:
            ours = json.loads(self._header.model_dump_json())
            differing = _differing(line.get("settings", {}), ours["settings"])
            raise _other_settings(self._file.path, differing)


def _differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the settings in which two runs differ, dotted."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        found = []
        for key in keys:
            found += _differing(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
        return found
    return [] if one == other else [name]


def write_result(path: Path, result: Format) -> None:
    """Write a result in one piece: a reader never sees half of it."""
    write_text(path, result.model_dump_json(indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in one piece.

    Raises:
        JournalError: it cannot be written.
    """
    with writing(path):
        places.write_whole(path, text)
