"""Files and folders that users name, with checks of writing to them.  A check writes there before
anything is loaded: permissions alone do not decide it (root has all), and an error after hours
comes too late."""

from __future__ import annotations

import errno
import glob
import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from fly.errors import ConfigError, quoted

PROBE = b"x" * 4096  # a whole block, so that a full disk shows


def cache_folder(name: str) -> Path:
    """The folder of this name below fly's own in the user's cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fly" / name


def user_path(value: str | os.PathLike[str], what: str, folder: Path | None = None) -> Path:
    """The path that `value` means, `~` and `~name` read as home folders.

    Args:
        value: as it was written.
        what: the key or flag, for messages.
        folder: what a relative path is relative to; None: the current directory.

    Raises:
        ConfigError: no file can be called so, or there is no such user.
    """
    fix = "give the path of a file or folder"
    try:
        path = (folder or Path()) / Path(value).expanduser()
        if b"\0" in os.fsencode(path):
            raise ValueError("a name cannot hold the character NUL")
        path.exists()  # asks the system, which refuses names that are too long
    except RuntimeError:
        raise ConfigError(
            f"{what} is {quoted(str(value))}: there is no such user", fix=fix
        ) from None
    except ValueError as error:  # NUL, lone surrogates
        raise ConfigError(f"{what} is {quoted(str(value))}: {error}", fix=fix) from None
    except OSError as error:
        raise ConfigError(f"{what} is {quoted(str(value))}: {error.strerror}", fix=fix) from None
    return path


def check_folder(
    folder: Path, name: str, given: object = None, *, stem: str = "fly_", suffix: str = ""
) -> None:
    """Make a file in a folder and remove it, with the folders that had to be made for it.

    Args:
        folder: need not exist.
        name: of the option that gave it.
        given: the option's value; None is the folder.
        stem: what names of files there begin with.
        suffix: what they end with.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        try:
            _try(folder, stem, suffix)
        except FileNotFoundError:  # another run that tried the same place removed its folder
            _try(folder, stem, suffix)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, FileExistsError):
            reason = "a file is where a folder has to be"
        raise ConfigError(
            f"{name} {str(given or folder)!r} cannot be written to: {reason}",
            fix="name another place, or make room; nothing has been loaded or decoded",
        ) from error


def check_file(path: Path, name: str) -> None:
    """As `check_folder`, for a file that is replaced or made.

    Raises:
        ConfigError: it is a folder, or none can be made there.
    """
    path = user_path(path, name)
    if os.path.isdir(path):
        raise ConfigError(f"{name} {str(path)!r} is a folder", fix="name a file")
    check_folder(path.parent, name, path)


def check_cache(prefix: str, name: str = "--use_cache") -> None:
    """Try where lm-eval's databases and our journals with this prefix are to be.

    Raises:
        ConfigError: no file can be made there, or a database is none.
    """
    path = Path(f"{prefix}_")  # the prefix may end in a slash
    # As long as a journal's name.
    check_folder(path.parent, name, prefix, stem=f"{path.name}0123_", suffix="_rank0.probe")
    for found in glob.glob(f"{glob.escape(prefix)}_rank*.db"):
        try:
            if os.path.isdir(found):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with open(found, "r+b"), closing(sqlite3.connect(found, timeout=0)) as database:
                database.execute("PRAGMA schema_version").fetchone()
        except (OSError, sqlite3.Error) as error:
            if "locked" in str(error):  # by another run, which is at it
                continue
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"{name} {prefix!r}: lm-eval's cache {found!r} cannot be used: {reason}",
                fix="name another prefix, or remove that file; nothing has been loaded or decoded",
            ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file of UTF-8 in one piece, with the rights that new files have: a reader never sees
    half of it, and the old one stays where the new one cannot be written.

    Raises:
        OSError: that is so.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _try(folder: Path, stem: str, suffix: str) -> None:
    made: list[Path] = []
    try:
        for each in [*reversed(folder.parents), folder]:
            if not each.is_dir():
                each.mkdir(exist_ok=True)  # another run may begin beside this one
                made.append(each)
        descriptor, path = tempfile.mkstemp(dir=folder, prefix=stem, suffix=suffix)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(PROBE)
        finally:
            os.unlink(path)
    finally:
        for each in reversed(made):
            with suppress(OSError):  # somebody else writes there already
                each.rmdir()
