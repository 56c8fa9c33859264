"""What tells one state of a model from another, without reading gigabytes: the commit of what came
from the hub, what tells each file of a folder, a digest of our own sources.

Only looks, offline, where loading has just looked.  What cannot be found is equal to nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import transformers.utils.hub
from huggingface_hub import try_to_load_from_cache

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Of these a repository has one, if what was loaded from it was a model, an adapter or a tokenizer.
_KNOWN_FILES = ("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json")
_NO_PART_OF_A_MODEL = frozenset({".md", ".jsonl", ".db", ".log"})
_HASHED_BYTES = 64 << 20  # larger files, which are weights, are told by size and time
_DIGITS = 12


def contents(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    subfolder: str = "",
    more_files: Sequence[str] = (),
) -> object:
    """A value that differs where what was loaded under this name differs, as plain JSON.

    Args:
        name: a folder, or a name on the hub.
        revision: as it was loaded; None is the hub's "main".
        cache_dir: as it was loaded; None is the default of `default_cache`.
        subfolder: of the folder or repository; its files count too.
        more_files: one that a repository may have when it has none of the usual ones.
    """
    folder = Path(name)
    if not folder.is_dir():
        files = [*_KNOWN_FILES, *more_files]
        files += [f"{subfolder}/{file}" for file in files] if subfolder else []
        found = find_snapshot(name, revision, cache_dir, files)
        if found is None:
            return unknown(f"{name} (revision {revision or 'main'})")
        if _COMMIT.fullmatch(found.name):
            return found.name
        folder = found
    return {
        str(file.relative_to(folder)): _tell_file(file)
        for part in sorted({folder, folder / subfolder})
        for file in sorted(part.iterdir())
        if file.is_file() and not file.name.startswith(".")
        if file.suffix not in _NO_PART_OF_A_MODEL
    }


def unknown(what: str) -> str:
    """A value that no other equals, so that nothing is ever reused under it; warns of that."""
    logger.warning(
        "the contents of %s cannot be told, so --use_cache will not reuse answers of this run, nor "
        "this run any: a folder, or a name that the hub's cache holds, can be resumed",
        what,
    )
    return f"unknown {uuid.uuid4().hex}"


def find_snapshot(
    name: str, revision: str | None, cache_dir: str | None, files: Sequence[str]
) -> Path | None:
    """The folder, named after the commit, from which the hub's cache serves a repository.

    Found by a file and not by `snapshot_download`, which refuses a repository that is there in
    part, as most are.
    """
    for file in files:
        found = try_to_load_from_cache(
            name, file, cache_dir=cache_dir or default_cache(), revision=revision
        )
        if isinstance(found, str):
            return Path(found).parents[len(Path(file).parts) - 1]
    return None


def default_cache() -> str | None:
    """Where transformers looks; None is the hub's own place, as with transformers 5.  Transformers
    4 can be told another."""
    return getattr(transformers.utils.hub, "TRANSFORMERS_CACHE", None)


def tell_sources(folder: Path) -> str:
    """A digest of the names and contents of all Python files below: an editable clone changes
    without its version."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder).as_posix()
        total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:_DIGITS]


def _tell_file(file: Path) -> str:
    stat = file.stat()
    if stat.st_size > _HASHED_BYTES:
        return f"{stat.st_size} bytes of {stat.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGITS]
