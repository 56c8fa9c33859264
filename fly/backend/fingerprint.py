"""What an answer depends on besides its request: models and their contents, loading, configuration,
versions, our own sources.  Answers are kept under a digest of it, so none is ever reused under
another setting.

Left out on purpose: batch size, device and number of processes.  They change no text but where two
tokens nearly tie (benchmarks/README.md), and a run may be resumed with others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fly
from fly.backend.contents import contents, tell_sources, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fly.config import FLyConfig

# Arguments of HFLM that cannot change a text.
_TEXT_NEUTRAL = frozenset({"device", "batch_size", "max_batch_size", "offload_folder"})
_LIBRARIES = ("lm_eval", "torch", "transformers", "tokenizers")
# Each loads models in some way, if it is installed.
_OPTIONAL = ("accelerate", "auto_gptq", "bitsandbytes", "flash_attn", "gguf", "gptqmodel", "peft")
_DIGITS = 12


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

    Warns where the contents of something that was loaded cannot be told; the settings are then
    equal to no others.

    Args:
        target_options: HFLM's arguments for the target.
        target: as loaded; tells the dtype that "auto" became.
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
