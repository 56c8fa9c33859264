"""Shapes of the pair's models, and their saving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tools.demo.tokenizer import MAX_LENGTH

ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; every head is 32 wide."""

    layers: int
    hidden: int
    intermediate: int
    heads: int


SHAPES = {  # published speed figures depend on these
    "target": Shape(layers=8, hidden=256, intermediate=704, heads=8),
    "draft": Shape(layers=2, hidden=96, intermediate=256, heads=3),
    "tiny": Shape(layers=1, hidden=32, intermediate=64, heads=1),
}


def build_model(
    shape: str, vocabulary: int, pad_id: int, eos_id: int, seed: int
) -> LlamaForCausalLM:
    """Return a freshly initialised fp32 Llama of one of SHAPES."""
    sizes = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=sizes.layers,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=eos_id,
    )
    torch.manual_seed(seed)
    with default_dtype(torch.float32):
        model: LlamaForCausalLM = LlamaForCausalLM(config)
    return model


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create tensors of this type unless they ask for another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def bf16_copy(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return a copy with all weights in bf16.

    Converting a whole model would round the rotary frequencies too, which are no weights.
    """
    with default_dtype(torch.bfloat16):
        clone: LlamaForCausalLM = LlamaForCausalLM(model.config)
    clone.load_state_dict(model.state_dict())
    return clone


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write bf16 weights, and a configuration that transformers 4.57 and 5.x read alike.

    The configuration asks for float32: bf16 arithmetic, not the rounded weights, costs so small a
    model a fifth of the functions it solves.  5.x renamed `torch_dtype` and moved `rope_theta`
    into `rope_parameters`: both forms are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clone = bf16_copy(model)
    clone.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    clone.save_pretrained(folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["dtype"] = settings["torch_dtype"] = "float32"
    settings["rope_theta"] = ROPE_THETA
    settings["rope_scaling"] = None
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": ROPE_THETA}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
