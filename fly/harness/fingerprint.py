"""The fingerprint of a run, under which its answers are kept.  It covers models and their contents,
loading, configuration, versions and our own sources, so no answer is ever reused under another
setting."""

# Left out on purpose: batch size, device and number of processes.  They change no text but where
# two tokens nearly tie (benchmarks/README.md), and a run may be resumed with others.

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers.utils.hub
from huggingface_hub import try_to_load_from_cache

import fly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fly.config import FLyConfig

logger = logging.getLogger(__name__)

# Arguments of HFLM that cannot change a text.
_TEXT_NEUTRAL = frozenset({"device", "batch_size", "max_batch_size", "offload_folder"})
_LIBRARIES = ("lm_eval", "torch", "transformers", "tokenizers")
# Each loads models in some way, if it is installed.
_OPTIONAL = ("accelerate", "auto_gptq", "bitsandbytes", "flash_attn", "gguf", "gptqmodel", "peft")
_DIGITS = 12
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Of these a repository has one, if what was loaded from it was a model, an adapter or a tokenizer.
_KNOWN_FILES = ("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json")
_NO_PART_OF_A_MODEL = frozenset({".md", ".jsonl", ".db", ".log"})
_HASHED_BYTES = 64 << 20  # larger files, which are weights, are identified by size and time


def versions() -> dict[str, str]:
    """Those of fly and of the libraries that take part in making a text."""
    found = {"fly": fly.__version__}
    found |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    for name in _OPTIONAL:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def text_settings(
    config: FLyConfig,
    target_options: Mapping[str, Any],
    target: PreTrainedModel,
    draft: PreTrainedModel | None,
) -> dict[str, Any]:
    """All that can change a text or its statistics, as plain JSON.

    Warns where the contents of something that was loaded cannot be found; the settings are then
    equal to no others.

    Args:
        target_options: HFLM's arguments for the target.
        target: as loaded; gives the dtype that "auto" became.
        draft: likewise; None where there is none.
    """
    return {
        "config": config.fingerprint(),
        "official_counters": [config.enable_fly, config.win_len]
        if config.enable_statistics
        else None,
        "loading": {
            key: str(value)
            for key, value in sorted(target_options.items())
            if key not in _TEXT_NEUTRAL
        },
        "loaded": _loaded(config.target_model_path or "", target_options),
        "target": {"dtype": str(target.dtype)},
        "draft": {
            "dtype": str(draft.dtype),
            "contents": contents(config.draft_model_path or "", revision=config.draft_revision),
        }
        if draft is not None
        else None,
        "versions": versions(),
        "sources": tell_sources(Path(fly.__file__).parent),
    }


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for the settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _loaded(path: str, options: Mapping[str, Any]) -> dict[str, object]:
    """The contents of everything that HFLM loaded for the target, each from where it did.

    It hands `revision` to all of them, `cache_dir` to weights alone and `subfolder` to all but
    adapter and delta.
    """
    revision = str(options["revision"]) if "revision" in options else None
    cache_dir = str(options["cache_dir"]) if options.get("cache_dir") else None
    subfolder = str(options.get("subfolder") or "")
    gguf_files = [str(options["gguf_file"])] if options.get("gguf_file") else []
    found = {
        "target": contents(path, revision=revision, subfolder=subfolder, more_files=gguf_files)
    }
    if cache_dir and not Path(path).is_dir():
        found["weights"] = contents(
            path,
            revision=revision,
            cache_dir=cache_dir,
            subfolder=subfolder,
            more_files=gguf_files,
        )
    for key in ("tokenizer", "peft", "delta"):
        name = options.get(key)
        if not name:
            continue
        if not isinstance(name, (str, Path)):
            found[key] = unknown(f"the {key}, an object,")
            continue
        found[key] = contents(
            str(name),
            revision=revision,
            cache_dir=cache_dir if key == "delta" else None,
            subfolder=subfolder if key == "tokenizer" else "",
        )
    return found


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
    4 can be given another."""
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
