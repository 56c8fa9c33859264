"""A file to which one process appends lines of JSON, each whole as soon as it is written and with
a checksum.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fly import plain_json


class InUseError(Exception):
    """Another process writes to the file."""


class LineFile:
    """`open`, `cut` what is half a line, `append`, `close`."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
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
        """Drop what lies behind the first `num_bytes`; raises OSError."""
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
