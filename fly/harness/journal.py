"""The journal of `--use_cache`, one line for every finished request.  A line is written when its
request finishes, with the answer and all statistics, so that a killed run resumes where it was and
a resumed run's statistics cover every request."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fly import plain_json
from fly.engine import Statistics
from fly.errors import JournalError
from fly.formats.reading import reason
from fly.harness.records import RequestRecord
from fly.settings import STRICT

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A finished request."""

    answer: str
    record: RequestRecord


class _Header(BaseModel):
    """The first line of a journal."""

    model_config = STRICT
    fly_journal: str
    settings: dict[str, Any]
    packed: dict[str, list[int]] = {}  # products that run packed, as Packer.choice


class _Line(BaseModel):
    """Every other line."""

    model_config = STRICT | {"revalidate_instances": "always"}
    key: str
    answer: str
    record: RequestRecord


def request_key(instance: Instance, copy: int, seed: int | None) -> str:
    """What distinguishes a request from all others under one fingerprint.

    Args:
        instance: its task, document, index, prompt and generation arguments count.
        copy: its number among the copies of the same Instance.
        seed: the run's seed if the answer is sampled, or None.
    """
    named = [instance.task_name, instance.doc_id, instance.idx, copy, *instance.args, seed]
    text = json.dumps(_with_texts_as_keys(named), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _with_texts_as_keys(value: Any) -> Any:
    """What JSON can hold: mappings by other keys, as `sequence_bias` by tuples, as pairs."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _with_texts_as_keys(each) for key, each in value.items()}
    if isinstance(value, Mapping):
        return sorted(
            ([repr(key), _with_texts_as_keys(each)] for key, each in value.items()), key=str
        )
    if isinstance(value, (list, tuple)):
        return [_with_texts_as_keys(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


class Journal:
    """`with Journal(...) as journal:` holds what is finished; `add` appends to it.

    Counters are as if the run had not been interrupted, seconds as they were spent.  What was spent
    on requests that were killed unfinished is not counted.

    lm-eval's own cache is not used for this: its keys have neither model nor copy, it commits in
    the background, leaves out what is sampled and keeps no statistics.

    The journals of other processes of the same fingerprint are read too, so that a run can be
    resumed with another number of processes.
    """

    def __init__(
        self,
        prefix: str,
        cache_rank: int,
        fingerprint: str,
        settings: Mapping[str, Any],
        choose: Callable[[], Mapping[str, list[int]]] = dict,
    ) -> None:
        """Nothing is opened yet.

        Args:
            prefix: the path of --use_cache; fingerprint and rank are appended.
            cache_rank: the number in the name of lm-eval's own file of this process.
            fingerprint: stands for the settings, and for the format of the lines, as the sources
                are among them.
            settings: written at the top of a new journal, for people to read.
            choose: asked which products run packed where no journal holds it; the same kernels
                then decode the rest of the run.
        """
        common = f"{prefix}_{fingerprint}_rank"
        self.path = Path(f"{common}{cache_rank}.jsonl")
        self._siblings = f"{glob.escape(Path(common).name)}*.jsonl"
        self._others = f"{glob.escape(Path(prefix).name)}_*_rank*.jsonl"
        self._fingerprint = fingerprint
        self._header: dict[str, Any] = {"fly_journal": fingerprint, "settings": settings}
        self._choose = choose
        self.packed: Mapping[str, list[int]] = {}
        self._entries: dict[str, Entry] = {}
        self._lines = LineFile(self.path)

    def __enter__(self) -> Journal:
        """Lock the file, drop a line that was being written when its process was killed, and read.

        Raises:
            JournalError: another process writes to it, it is damaged or cannot be written, or one
                of the others cannot be read.
        """
        with self._writing():
            self._lines.open()
        try:
            entries, num_bytes, packed = read_journal(self.path, self._fingerprint)
            for file in sorted(self.path.parent.glob(self._siblings)):
                if file != self.path:
                    others, _, theirs = read_journal(file, self._fingerprint)
                    entries = others | entries
                    packed = theirs if packed is None else packed
            self.packed = self._choose() if packed is None else packed
            with self._writing():
                self._lines.cut(num_bytes)
                if num_bytes == 0:
                    self._say_what_is_orphaned()
                    self._lines.append(self._header | {"packed": dict(self.packed)})
        except BaseException:
            self._lines.close()
            raise
        self._entries = entries
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, which unlocks it."""
        self._lines.close()

    def _say_what_is_orphaned(self) -> None:
        """Journals beside a new one that another version of fly wrote: they are not continued."""
        settings: Mapping[str, Any] = self._header["settings"]
        ours = settings.get("versions", {}).get("fly")
        versions = {
            file.name: version
            for file in sorted(self.path.parent.glob(self._others))
            if file != self.path and (version := _version_of(file)) not in (None, ours)
        }
        if versions:
            name, version = next(iter(versions.items()))
            logger.warning(
                "%s is begun anew: %d journals beside it, such as %s, are of another version of "
                "fly (%s), and what they hold is decoded again",
                self.path.name,
                len(versions),
                name,
                version,
            )

    def get(self, key: str) -> Entry | None:
        """The finished request of this key."""
        return self._entries.get(key)

    def add(self, key: str, entry: Entry) -> None:
        """Save a finished request.

        The line is the operating system's when this returns, so killing the process loses nothing.
        It is not forced onto the disk: that would cost milliseconds a request, and what a power
        loss takes is decoded again.

        Raises:
            JournalError: it cannot be written, for instance because the disk is full.
        """
        with self._writing():
            self._lines.append({"key": key, "answer": entry.answer, "record": asdict(entry.record)})
        self._entries[key] = entry

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What can go wrong with the file, in the journal's words."""
        try:
            yield
        except InUseError as error:
            raise JournalError(
                f"{self.path}: another process is writing to this journal",
                fix="wait for that run, or give this one its own --use_cache",
            ) from error
        except OSError as error:
            raise JournalError(
                f"{self.path}: the journal of --use_cache cannot be written: {error}",
                fix="make room or choose another path, and start again: what is finished is kept",
            ) from error


def read_journal(
    path: Path, fingerprint: str
) -> tuple[dict[str, Entry], int, dict[str, list[int]] | None]:
    """The finished requests by key, the number of bytes up to the end of the last whole line, and
    which products ran packed; None where not even the first line is whole.

    Raises:
        JournalError: it cannot be read, a line but the last is damaged, or the journal belongs to
            other settings.
    """
    try:
        lines, num_bytes = read_lines(path)
    except OSError as error:
        raise JournalError(
            f"{path}: this journal of --use_cache cannot be read: {error}",
            fix="make it readable, delete it to decode its requests again, or name another path",
        ) from error
    entries: dict[str, Entry] = {}
    packed = None
    for number, line in enumerate(lines, start=1):
        try:
            value = read_line(line)
            if number == 1:
                header = _Header.model_validate(value)
                known, packed = header.fly_journal, header.packed
            else:
                key, entry = _entry(value)
                entries[key] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"{path}, line {number}: not a line of a journal ({reason(error)})",
                fix="delete that line to decode its request again, or the file to start anew"
                if number > 1
                else "delete the file to start anew, or name another --use_cache",
            ) from error
        if number == 1 and known != fingerprint:
            raise JournalError(
                f"{path}: a journal of settings {known}, but this run has settings {fingerprint}",
                fix="name another --use_cache; do not rename journals",
            )
    return entries, num_bytes, packed


def _version_of(path: Path) -> str | None:
    """The version of fly that wrote a journal; None where it does not say."""
    try:
        with path.open("rb") as file:
            settings = _Header.model_validate(read_line(file.readline())).settings
        return str(settings["versions"]["fly"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(value: dict[str, Any]) -> tuple[str, Entry]:
    record = value["record"]
    made = RequestRecord(**(record | {"statistics": Statistics(**record["statistics"])}))
    line = _Line.model_validate(value | {"record": made})
    return line.key, Entry(line.answer, line.record)


class InUseError(Exception):
    """Another process writes to the file."""


class LineFile:
    """`open`, `cut` what is half a line, `append`, `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def open(self) -> None:
        """Open the file, make it and its folder if they are missing, and lock it.

        Raises:
            InUseError: another process has it locked.
            OSError: it cannot be opened for writing.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Text mode on Windows would end lines in two characters.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._fd = os.open(self.path, flags, 0o644)
        try:
            _lock(self._fd)
        except BaseException:
            self.close()
            raise

    def cut(self, num_bytes: int) -> None:
        """Drop what lies after the first `num_bytes`; raises OSError."""
        os.ftruncate(self._fd, num_bytes)

    def append(self, value: Mapping[str, Any]) -> None:
        """Write a line at the end.

        It is the operating system's when this returns, so killing the process loses nothing; it is
        not forced onto the disk, which would cost milliseconds.

        Raises:
            OSError: it could not be written, or not to its end, for instance because the disk is
                full.
        """
        # ASCII, so that no character of a text can end a line or break in the middle.
        line = json.dumps(plain_json.seal(dict(value))).encode("ascii") + b"\n"
        num_written = os.write(self._fd, line)
        if num_written < len(line):
            raise OSError(f"only {num_written} of {len(line)} bytes were written")

    def close(self) -> None:
        """Close the file, which unlocks it."""
        os.close(self._fd)
        self._fd = -1


def read_lines(path: Path) -> tuple[list[bytes], int]:
    """The whole lines of a file and the number of bytes that they fill; raises OSError."""
    data = path.read_bytes()
    num_bytes = data.rfind(b"\n") + 1
    return data[:num_bytes].split(b"\n")[:-1], num_bytes


def read_line(line: bytes) -> Any:
    """The value of a line, which has the checksum that it was written with, or none (0.1).

    Raises:
        ValueError: it is no JSON, or was changed.
    """
    return plain_json.unseal(plain_json.loads(line))


def _lock(fd: int) -> None:
    """Make sure that no other process writes; the lock ends with the file or with the process.

    Where the system or the file system has no such locks, two runs on one path are not noticed;
    their lines are whole nevertheless, as each is appended in one write.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError from error
    except OSError:
        return
