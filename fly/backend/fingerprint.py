"""What a text depends on besides its request: models and their contents, loading, configuration,
versions.  Answers are kept under a digest of it, so none is ever reused under another setting.

Left out on purpose: batch size, device and number of processes.  They change no text but where two
tokens tie (benchmarks/README.md), and a run may be resumed with others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache

import fly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fly.config import FLyConfig

# Arguments of HFLM that cannot change a text.
_TEXT_NEUTRAL = frozenset({"device", "batch_size", "max_batch_size", "offload_folder"})
# Arguments of HFLM that name something to load, and a file that it is known to have.
_LOADED = {
    "peft": "adapter_config.json",
    "delta": "config.json",
    "tokenizer": "tokenizer_config.json",
}
_NO_PART_OF_A_MODEL = frozenset({".md", ".jsonl", ".db", ".log"})
_HASHED_BYTES = 64 << 20  # larger files, which are weights, are told by size and time
_DIGITS = 12


def versions() -> dict[str, str]:
    """Those of fly and of the libraries that take part in making a text."""
    others = ("lm_eval", "torch", "transformers")
    return {"fly": fly.__version__} | {name: importlib.metadata.version(name) for name in others}


def text_settings(
    config: FLyConfig,
    target_options: Mapping[str, Any],
    target: PreTrainedModel,
    draft: PreTrainedModel | None,
) -> dict[str, Any]:
    """All that can change a text, as plain JSON.

    Args:
        target_options: HFLM's arguments for the target.
        target: as loaded; tells the dtype that "auto" became, and the commit of a model from the
            hub.
        draft: likewise; None where there is none.
    """
    subfolder = str(target_options.get("subfolder") or "")
    return {
        "config": config.fingerprint(),
        "loading": {
            key: str(value)
            for key, value in sorted(target_options.items())
            if key not in _TEXT_NEUTRAL
        },
        "loaded": {
            key: _contents(str(target_options[key]), "", _commit_of(str(target_options[key]), file))
            for key, file in _LOADED.items()
            if isinstance(target_options.get(key), (str, Path))
        },
        "target": _model(config.target_model_path, subfolder, target),
        "draft": _model(config.draft_model_path, "", draft) if draft is not None else None,
        "versions": versions(),
    }


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for the settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _model(path: str | None, subfolder: str, model: PreTrainedModel) -> dict[str, Any]:
    commit = getattr(model.config, "_commit_hash", None)
    return {"dtype": str(model.dtype), "contents": _contents(path or "", subfolder, commit)}


def _contents(path: str, subfolder: str, commit: str | None) -> object:
    """The commit of a model on the hub; for a folder, what tells each of its files."""
    folders = {Path(path), Path(path, subfolder)}
    if not Path(path).is_dir():
        return commit
    return {
        str(file.relative_to(path)): _file(file)
        for folder in sorted(folders)
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
        if file.suffix not in _NO_PART_OF_A_MODEL
    }


def _file(file: Path) -> str:
    stat = file.stat()
    if stat.st_size > _HASHED_BYTES:
        return f"{stat.st_size} bytes of {stat.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGITS]


def _commit_of(name: str, file: str) -> str | None:
    """The commit from which the hub's cache serves a repository; None for a folder."""
    if Path(name).is_dir():
        return None
    found = re.search(r"/snapshots/([0-9a-f]+)/", str(try_to_load_from_cache(name, file)))
    return found.group(1) if found else None
