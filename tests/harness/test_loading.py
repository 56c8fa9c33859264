"""How HFLM loads a target holds for FLyLM: adapters, GGUF files, placement, quantisation.  What
cannot run on a CPU without its library is followed up to transformers' own loading.  None of it
reaches the draft."""

from typing import Any

import pytest
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from packaging import version
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from fly.harness import FLyLM
from tests.harness.test_lm import NATIVE, instances

# peft 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
PROMPTS = ["a longer prompt here", "b", "some words"]


def texts(lm) -> list[str]:
    return lm.generate_until(instances(PROMPTS, until=[], max_gen_toks=16, do_sample=False), True)


def both(pair, **options: Any) -> tuple[FLyLM, HFLM]:
    """Ours and lm-eval's own on the target, loaded with the same arguments."""
    ours = FLyLM(config_path=str(pair.config), device="cpu", batch_size=2, **(NATIVE | options))
    return ours, HFLM(pretrained=str(pair.target), device="cpu", batch_size=1, **options)


@pytest.fixture(scope="module")
def base_texts(pair):
    return texts(HFLM(pretrained=str(pair.target), device="cpu", batch_size=1))


@pytest.fixture(scope="module")
def adapter(pair, tmp_path_factory):
    """A LoRA adapter on the target that changes its text."""
    peft = pytest.importorskip("peft")
    model = LlamaForCausalLM.from_pretrained(pair.target)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(model, config).save_pretrained(folder)
    return str(folder)


def test_adapter_is_the_targets_alone(pair, adapter, base_texts):
    ours, theirs = both(pair, peft=adapter)
    assert texts(ours) == texts(theirs) != base_texts
    assert not any("lora" in name for name, _ in ours.draft.named_parameters())


def test_target_with_an_adapter_is_not_its_own_draft(pair, adapter):
    lm = FLyLM(
        pretrained=str(pair.target),
        config_path=str(pair.config),
        device="cpu",
        peft=adapter,
        **NATIVE,
    )
    assert lm.draft is not lm.model
    assert not any("lora" in name for name, _ in lm.draft.named_parameters())
    assert texts(lm) == texts(both(pair, peft=adapter)[1])


def test_gguf_file(pair, tmp_path, base_texts):
    """The file is a copy of the target, so the text is the target's."""
    pytest.importorskip("gguf")
    from tests.harness import gguf_file

    gguf_file.write(pair.target, tmp_path / "toy.gguf")
    given = {"gguf_file": "toy.gguf", "tokenizer": str(pair.target), "device": "cpu"}
    ours = FLyLM(config_path=str(pair.config), target_model_path=str(tmp_path), **given, **NATIVE)
    theirs = HFLM(pretrained=str(tmp_path), **given)
    assert texts(ours) == texts(theirs) == base_texts


# Without a GPU accelerate leaves all weights on the disk.
ALL_OFFLOADED = pytest.mark.skipif(
    version.parse(transformers.__version__).major < 5,
    reason="transformers 4 cannot load a model that lies on the disk as a whole",
)
PLACEMENTS = {
    "parallelize": pytest.param({"parallelize": True}, marks=ALL_OFFLOADED),
    "device_map": {"parallelize": True, "device_map": {"": "cpu"}},
    "device_map by name": {"device_map": "cpu"},  # HFLM heeds it with `parallelize` only
}


@pytest.mark.parametrize("options", PLACEMENTS.values(), ids=PLACEMENTS)
def test_placement(pair, tmp_path, base_texts, options):
    ours, theirs = both(pair, offload_folder=str(tmp_path), **options)
    assert texts(ours) == texts(theirs) == base_texts


def test_split_target(pair, tmp_path, base_texts):
    """Layers in two places, by the hooks that also split one over GPUs: here memory, disk."""
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
    places |= {"model.layers.1": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    options = {"parallelize": True, "device_map": places, "offload_folder": str(tmp_path)}
    ours, theirs = both(pair, **options)
    assert ours.model.hf_device_map == theirs.model.hf_device_map == places
    assert texts(ours) == texts(theirs) == base_texts
    assert not hasattr(ours.draft, "hf_device_map")


PASSED_ON = {
    "8 bit": {"load_in_8bit": True},
    "4 bit": {
        "load_in_4bit": True,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "tensor parallel": {"tp_plan": "auto"},
    "attention": {"attn_implementation": "eager"},
}


class Loaded(BaseException):
    """Ends a constructor where it has asked for the target's weights; no error of theirs."""


def asked_for(monkeypatch, make) -> tuple[tuple, dict]:
    """What transformers is asked to load first while `make` runs; nothing is loaded."""
    calls = []

    def from_pretrained(*arguments, **options):
        calls.append((arguments, options))
        raise Loaded

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
        with pytest.raises(Loaded):
            make()
    [call] = calls
    return call


@pytest.mark.parametrize("options", PASSED_ON.values(), ids=PASSED_ON)
def test_arguments_reach_transformers_as_from_hflm(pair, monkeypatch, options):
    ours = asked_for(
        monkeypatch, lambda: FLyLM(config_path=str(pair.config), device="cpu", **options)
    )
    theirs = asked_for(
        monkeypatch, lambda: HFLM(pretrained=str(pair.target), device="cpu", **options)
    )
    assert ours == theirs
    for key, value in options.items():
        expected = torch.bfloat16 if key == "bnb_4bit_compute_dtype" else value
        assert ours[1][key] == expected


def test_draft_gets_no_argument_of_the_target(pair, monkeypatch):
    """Not its revision either, which may not exist for the draft."""
    calls = {}
    load = AutoModelForCausalLM.from_pretrained

    def from_pretrained(path, **options):
        calls[path] = options
        return load(
            path, **{key: options[key] for key in ("dtype", "device_map") if key in options}
        )

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    options = {"load_in_4bit": True, "attn_implementation": "eager", "revision": "v2"}
    FLyLM(config_path=str(pair.config), device="cpu", **options)
    assert options.items() <= calls[str(pair.target)].items()
    assert set(calls[str(pair.draft)]) == {"dtype", "trust_remote_code"}
