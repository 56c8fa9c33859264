"""A tiny random pair with a tokenizer of bytes, saved as transformers would save a real one, and a
task on it.  Folders that other tests spoil are copies."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 256  # tokens that target and draft can see
SPECIAL = ["<s>", "</s>", "<pad>"]

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  do_sample: false
  max_gen_toks: 12
metric_list:
  - metric: exact_match
"""
CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [" yes", " no"]
doc_to_target: 0
metric_list:
  - metric: acc
"""


def byte_tokenizer(swap: tuple[str, str] | None = None) -> PreTrainedTokenizerFast:
    """One token a byte; `swap` exchanges the ids of two tokens."""
    vocab = {
        token: index
        for index, token in enumerate(SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    if swap:
        one, other = swap
        vocab[one], vocab[other] = vocab[other], vocab[one]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def save_model(folder: Path, seed: int, *, layers: int = 2) -> Path:
    """A random Llama over the byte tokenizer, weights large enough that its text varies."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_config(file: Path, target: Path, **settings: object) -> Path:
    """A configuration for the pair."""
    file.write_text(
        json.dumps({"target_model_path": str(target), "spd_k": 8, "win_len": 3, **settings})
    )
    return file


def save_tasks(folder: Path, num_items: int = 5) -> Path:
    """Two tasks in a folder: `toy_text` generates, `toy_choice` only scores."""
    folder.mkdir()
    data = folder / "items.jsonl"
    items = [{"question": f"Item {n}, say:", "answer": "yes"} for n in range(num_items)]
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    for name, form in (("toy_text", TASK), ("toy_choice", CHOICES)):
        text = form.format(name=name, data=data, cache=folder / "cache")
        (folder / f"{name}.yaml").write_text(text)
    return folder
