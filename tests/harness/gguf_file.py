"""A saved Llama as llama.cpp's converter would write it, without the tokenizer."""

from pathlib import Path

import gguf
import numpy as np
from transformers import LlamaForCausalLM

PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(model_folder: Path, file: Path) -> None:
    """Weights stay float32."""
    model = LlamaForCausalLM.from_pretrained(model_folder)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("toy")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in model.state_dict().items():
        weights = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights = _interleaved(weights, config.num_attention_heads)
        writer.add_tensor(_gguf_name(name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def _interleaved(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order: rotary pairs side by side."""
    halves = weights.reshape(num_heads, 2, -1, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)
