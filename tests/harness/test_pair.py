"""Which two models may work together, and what the draft takes from the target."""

import pytest
import torch

from fly.config import FLyConfig
from fly.errors import FLyWarning, ModelError
from fly.harness import FLyLM
from fly.harness.loading import compare_tokenizers, is_same_model, opening
from tests.harness import pairs


def compare(target, draft):
    compare_tokenizers(target, draft, names=("T", "D"))


def test_same_tokenizer():
    compare(pairs.byte_tokenizer(), pairs.byte_tokenizer())


def test_ids_beyond_the_common_ones_are_allowed():
    longer = pairs.byte_tokenizer()
    longer.add_tokens(["<extra>"])
    compare(longer, pairs.byte_tokenizer())
    compare(pairs.byte_tokenizer(), longer)


def test_swapped_ids_are_refused():
    with pytest.raises(ModelError, match="2 of 259 common ids") as caught:
        compare(pairs.byte_tokenizer(), pairs.byte_tokenizer(swap=("A", "B")))
    assert "dual_tok" in caught.value.fix


def test_differing_tokenizers_are_refused_before_weights_are_read(pair, tmp_path):
    draft = pairs.save_model(tmp_path / "draft", seed=1)
    pairs.byte_tokenizer(swap=("A", "B")).save_pretrained(draft)
    for folder in (pair.target, draft):
        assert (folder / "model.safetensors").is_file()
    (draft / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="tokenizers") as caught:
        FLyLM(pretrained=str(draft), config_path=str(pair.config), device="cpu")
    assert "dual_tok: true" in caught.value.fix


@pytest.fixture
def swapped(tmp_path):
    """A draft as large as the target whose tokenizer exchanges two letters."""
    draft = pairs.save_model(tmp_path / "draft", seed=1)
    pairs.byte_tokenizer(swap=("A", "B")).save_pretrained(draft)
    return str(draft)


@pytest.mark.parametrize("asked", [{"dual_tok": True}, {"drafter": "other_tokenizer"}])
def test_differing_tokenizers_are_translated_where_that_is_asked_for(pair, swapped, asked):
    given = {"config_path": str(pair.config), "device": "cpu", "acceptance": "native"}
    lm = FLyLM(pretrained=swapped, **given, **asked)
    assert lm.draft_tokenizer.convert_tokens_to_ids("A") == lm.tokenizer.convert_tokens_to_ids("B")
    prompts = ["ABBA and so on:", "B", "a\n"]
    results = lm.decoder.generate(prompts, max_new_tokens=30)
    plain = FLyLM(use_sd=False, **given).decoder.generate(prompts, max_new_tokens=30)
    assert [result.token_ids for result in results] == [result.token_ids for result in plain]
    assert sum(result.statistics.proposed for result in results) > 30


def test_the_same_tokenizer_is_no_reason_to_translate(pair):
    lm = FLyLM(config_path=str(pair.config), device="cpu", dual_tok=True)
    with pytest.warns(FLyWarning, match="'model' is faster"):
        assert lm.decoder.drafter.report() == {"method": "intersect", "common_tokens": 259}


def test_encoder_decoder_is_refused_before_weights_are_read(tmp_path, pair):
    from transformers import T5Config

    folder = tmp_path / "t5"
    T5Config(d_model=16, num_layers=1, num_heads=2, vocab_size=259).save_pretrained(folder)
    with pytest.raises(ModelError, match="encoder-decoder") as caught:
        FLyLM(config_path=str(pair.config), target_model_path=str(folder), device="cpu")
    assert "target_model_path" in str(caught.value)
    with pytest.raises(ModelError, match="encoder-decoder") as caught:
        FLyLM(pretrained=str(folder), config_path=str(pair.config), device="cpu")
    assert "draft_model_path" in str(caught.value)


def test_folder_without_a_model(tmp_path, pair):
    for arguments in ({"target_model_path": str(tmp_path)}, {"pretrained": str(tmp_path)}):
        with pytest.raises(ModelError, match="could not open"):
            FLyLM(config_path=str(pair.config), device="cpu", **arguments)


def test_draft_follows_the_target_unless_told_otherwise(pair):
    given = {"config_path": str(pair.config), "device": "cpu", "dtype": "bfloat16"}
    assert FLyLM(**given).draft.dtype == torch.bfloat16
    assert FLyLM(**given, draft_dtype="float32").draft.dtype == torch.float32


def test_draft_equal_to_target_is_loaded_once(pair):
    given = {"config_path": str(pair.config), "device": "cpu", "pretrained": str(pair.target)}
    shared = FLyLM(**given)
    assert shared.draft is shared.model
    own = FLyLM(**given, draft_dtype="bfloat16")
    assert own.draft is not own.model


SHARED = {  # arguments of the target; whether it is then what the draft's path means
    "none": ({}, True),
    "dtype and batches": ({"dtype": "bfloat16", "batch_size": "auto", "device": "cpu"}, True),
    "prompts": ({"tokenizer": "x", "max_length": 64, "enable_thinking": False}, True),
    "places": ({"parallelize": True, "device_map": "auto", "offload_folder": "x"}, True),
    "not given": ({"peft": None, "load_in_8bit": None}, True),
    "adapter": ({"peft": "x"}, False),
    "quantised": ({"load_in_4bit": True}, False),
    "quantised by configuration": ({"quantization_config": {"bits": 4}}, False),
    "of the model's own configuration": ({"rope_scaling": {"factor": 2.0}}, False),
    "one that nobody knows yet": ({"variant": "fp8"}, False),
}


@pytest.mark.parametrize(("options", "shared"), SHARED.values(), ids=SHARED)
def test_shared_only_where_no_argument_can_alter_the_target(options, shared):
    config = FLyConfig.model_construct(target_model_path="a/b", draft_model_path="a/b")
    assert is_same_model(config, options) == shared


def test_unknown_argument_is_named(pair):
    with pytest.raises(ModelError, match="unknown model argument 'foo'") as caught:
        FLyLM(config_path=str(pair.config), device="cpu", foo=1)
    assert "leave it out" in caught.value.fix


def test_other_errors_are_told_by_name_and_keep_their_cause():
    for text in ("foo() got an unexpected keyword argument 'bar'", "no number"):
        with pytest.raises(ModelError) as caught, opening("key", "path", {"foo": 1}):
            raise TypeError(text)
        assert "key is 'path'" in caught.value.message
        assert f"TypeError: {text}" in caught.value.message
        assert isinstance(caught.value.__cause__, TypeError)


def test_out_of_memory_is_no_fault_of_the_file():
    with pytest.raises(torch.OutOfMemoryError), opening("key", "path"):
        raise torch.OutOfMemoryError


def test_no_draft_is_loaded_without_need(pair):
    for settings in ({"use_sd": False}, {"drafter": "ngram", "acceptance": "native"}):
        assert FLyLM(config_path=str(pair.config), device="cpu", **settings).draft is None
