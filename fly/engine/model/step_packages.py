"""The folder of compiled steps, each compiled once on a machine.  An entry is a folder of its own,
named after all that the compiled code depends on, and appears in one piece."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fly.errors import FLyWarning
from fly.places import cache_folder

PACKAGE, ABOUT = "step.pt2", "about.json"
MAX_BYTES = 1 << 30  # of all entries; what was used longest ago goes first
PARTIAL = ".part-"
PARTIAL_AGE_S = 86400.0  # what a killed process left is removed after a day


def default_folder() -> Path:
    """What the environment's FLY_STEPS names, or else one below the user's cache directory."""
    given = os.environ.get("FLY_STEPS")
    if given:
        return Path(given).expanduser()
    return cache_folder("steps")


class StepPackages:
    """Entries by key.  Several processes may share a folder: where two compile the same step, both
    go on with the first that is finished."""

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        """The folder need not exist; None: `default_folder`."""
        self.folder = default_folder() if folder is None else folder
        self.max_bytes = max_bytes

    def find(self, key: str) -> Path | None:
        """A whole package, or None; one that is damaged is thrown away.

        Warns:
            FLyWarning: so it is.
        """
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            about = json.loads((entry / ABOUT).read_bytes())
            if about["sha256"] != _sha256(entry / PACKAGE):
                raise ValueError("its contents are not what was written")
            with suppress(OSError):
                os.utime(entry)  # used now
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.discard(key, str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None
        return entry / PACKAGE

    def discard(self, key: str, why: str) -> None:
        """Throw an entry away.

        Warns:
            FLyWarning: always; it is compiled anew.
        """
        entry = self.folder / key
        warnings.warn(
            f"the compiled step {entry} is damaged ({why}), so it is compiled anew",
            FLyWarning,
            stacklevel=2,
        )
        shutil.rmtree(entry, ignore_errors=True)

    @contextmanager
    def made(self, key: str, write: Callable[[Path], None]) -> Iterator[Path]:
        """Let `write` make a package, and keep it under a key.  Where nothing can be written below
        the folder, it lasts as long as the context.

        Warns:
            FLyWarning: it cannot be kept.
        """
        with tempfile.TemporaryDirectory(prefix="fly-step-") as place:
            package = Path(place) / PACKAGE
            write(package)
            yield self._keep(key, package) or package

    def _keep(self, key: str, package: Path) -> Path | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.folder))
            try:
                shutil.copyfile(package, part / PACKAGE)
                (part / ABOUT).write_text(json.dumps({"sha256": _sha256(package)}))
                os.chmod(part, 0o755)
                with suppress(OSError):  # another process was first, and its entry is as good
                    part.rename(self.folder / key)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            self._make_room(key)
        except OSError as error:
            warnings.warn(
                f"the compiled step cannot be kept in {self.folder} ({error}), so the next start "
                "compiles it again; set XDG_CACHE_HOME to a folder that can be written",
                FLyWarning,
                stacklevel=2,
            )
            return None
        return self.find(key)

    def entries(self) -> list[Path]:
        """All entries, what was used longest ago first."""
        found = []
        for each in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(OSError):  # another process removed it
                found.append((each.stat().st_mtime, each))
        return [each for _, each in sorted(found)]

    @property
    def num_bytes(self) -> int:
        """Of all entries together."""
        return sum(map(_size, self.entries()))

    def clear(self) -> int:
        """Remove everything; how many steps there were."""
        entries = self.entries()
        for each in entries:
            shutil.rmtree(each, ignore_errors=True)
        return sum(not each.name.startswith(PARTIAL) for each in entries)

    def _make_room(self, kept: str) -> None:
        """Remove what is too much, and what a killed process left."""
        entries = self.entries()
        excess = sum(map(_size, entries)) - self.max_bytes
        for each in entries:
            is_partial = each.name.startswith(PARTIAL)
            if is_partial:
                with suppress(OSError):
                    if time.time() - each.stat().st_mtime > PARTIAL_AGE_S:
                        shutil.rmtree(each, ignore_errors=True)
            elif excess > 0 and each.name != kept:
                excess -= _size(each)
                shutil.rmtree(each, ignore_errors=True)


def _size(entry: Path) -> int:
    total = 0
    for file in entry.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
