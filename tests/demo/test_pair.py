"""The embedded pair as it is shipped: small, loadable, one tokenizer, the recorded weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from fly.demo import DRAFT_PATH, PAIR_RECORD, TARGET_PATH, weight_hashes
from fly.demo.problems import KINDS, heldout

SIZE_LIMIT = 16 * 2**20  # bytes, both folders


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TARGET_PATH)


def test_both_folders_are_small() -> None:
    files = [file for folder in (TARGET_PATH, DRAFT_PATH) for file in folder.rglob("*")]
    assert sum(file.stat().st_size for file in files) <= SIZE_LIMIT


def test_weights_are_the_recorded_ones() -> None:
    record = json.loads(PAIR_RECORD.read_text(encoding="utf-8"))
    assert weight_hashes() == record["sha256"]


def test_hashes_need_no_torch() -> None:
    program = "import sys, fly.demo; fly.demo.weight_hashes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("folder", "layers", "hidden"), [(TARGET_PATH, 8, 256), (DRAFT_PATH, 2, 96)]
)
def test_models_load_with_the_published_shapes(folder: Path, layers: int, hidden: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == (
        "llama", layers, hidden,
    )  # fmt: skip
    assert config.max_position_embeddings >= 4096
    assert config.tie_word_embeddings
    assert model.generation_config.do_sample is False
    assert model.generation_config.eos_token_id == config.eos_token_id


@pytest.mark.parametrize("folder", [TARGET_PATH, DRAFT_PATH])
def test_models_compute_in_float32(folder: Path) -> None:
    """`auto` is lm-eval's default; in bf16 the target loses a fifth of the functions it solves."""
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.float32


def test_both_folders_hold_one_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (TARGET_PATH / name).read_bytes() == (DRAFT_PATH / name).read_bytes()
    settings = json.loads((TARGET_PATH / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    for folder in (TARGET_PATH, DRAFT_PATH):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["vocab_size"] == len(tokenizer)
        assert config["eos_token_id"] == tokenizer.eos_token_id
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    digits = {tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"}
    assert len(digits) == 10
    for text in ("=1234567890", " 407", "x12y3"):
        ids = tokenizer(text).input_ids
        assert sum(token in digits for token in ids) == sum(char.isdigit() for char in text)


@pytest.mark.parametrize(
    "text", ["naïve 数字 ٣٤ 🙂\tx", "\x00\n\r\n  \n    return\n", "  def f(a):  "]
)
def test_any_text_survives(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_prompt_and_its_solution_do_not_merge(tokenizer: PreTrainedTokenizerBase) -> None:
    for kind in KINDS:
        for item in heldout(kind, 20):
            apart = tokenizer(item.prompt).input_ids + tokenizer(item.solution).input_ids
            assert tokenizer(item.prompt + item.solution).input_ids == apart


def test_chat_template_marks_turns_and_opens_the_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Question: one"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|user|>Question: one<|assistant|>"
    assert len(tokenizer("<|user|><|assistant|>").input_ids) == 2
