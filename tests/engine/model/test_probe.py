"""The probe sees what is wrong, in half precision too, and leaves no trace."""

import copy

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.engine.model.masks import MaskPlan
from fly.engine.model.per_row import RowModel
from fly.engine.model.probe import (
    BATCHED,
    CACHE_KINDS,
    EXACT,
    PLAIN,
    UNCACHED,
    deviation,
    probe,
    share,
    tolerance,
)
from fly.engine.model.slots import SlotModel
from fly.engine.self_draft.int8 import in_int8
from tests.engine.architectures import FAMILIES
from tests.models import generate, prompts, tiny, tiny_tokenizer

HALF = ("Llama", "Mistral", "Gemma 2", "GPT-2", "Mixtral", "gpt-oss", "DeepSeek-V3")


@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_no_reason_to_leave_a_tier(name):
    model = copy.deepcopy(FAMILIES[name].model()).bfloat16()
    assert probe(model).kind is BATCHED


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["Mistral", "Gemma 2"])
def test_a_wrong_mask_is_seen(name, dtype, monkeypatch):
    """Sliding layers that see all: only the last of 16 tokens are behind the window."""
    model = copy.deepcopy(FAMILIES[name].model()).to(dtype)
    assert deviation(SlotModel(model), model) <= tolerance(model)
    served = SlotModel(model)
    plan = served._masks
    served._masks = MaskPlan(dict.fromkeys(plan.windows), plan.by_layer_type)
    assert deviation(served, model) > tolerance(model)


@torch.inference_mode()
def test_a_rejection_that_is_not_taken_back_is_seen(monkeypatch):
    model = FAMILIES["Bloom"].model()
    assert deviation(RowModel(model), model) <= tolerance(model)
    monkeypatch.setattr("fly.engine.model.per_row.CachedRow._rewind", believe)
    assert deviation(RowModel(model), model) > 0.1


@torch.inference_mode()
def test_a_draft_may_differ_from_itself():
    """In 8 bits a number on the border between two steps goes to either, by the forward's shape."""
    model = in_int8(tiny("llama", hidden_size=128, num_hidden_layers=16))
    assert EXACT < deviation(SlotModel(model), model) < 0.1
    assert probe(model).kind is PLAIN
    assert probe(model, is_draft=True).kind is BATCHED


@torch.inference_mode()
def test_a_draft_as_unsteady_as_a_real_model_in_8_bits():
    """SmolLM2-135M's logits are off by 0.11, and in forwards of other shapes no less."""
    model = shaky(0.15)
    assert deviation(SlotModel(model), model) > 0.1
    assert probe(model, is_draft=True).kind is BATCHED


@torch.inference_mode()
@pytest.mark.parametrize("amount", [0.0, 0.05])
def test_a_draft_whose_cache_is_wrong_is_seen(amount, monkeypatch):
    """However unsteady it is besides.  Of the kinds with which nobody drafts one is left."""
    monkeypatch.setattr("fly.engine.model.per_row.CachedRow._rewind", believe)
    monkeypatch.setattr("fly.engine.model.probe.CACHE_KINDS", CACHE_KINDS[1:])
    assert probe(shaky(amount), is_draft=True).kind is PLAIN


def test_a_draft_without_a_steady_logit_is_refused():
    """Its tokens would be guesses whatever the cache."""
    assert probe(shaky(3.0), is_draft=True).kind is PLAIN


def believe(row, start):
    """In place of taking tokens back: say so alone."""
    row.held = start


def shaky(amount):
    """A model whose logits hang on how many tokens are in the forward, by a share `amount` of their
    standard deviation.
    """
    model = copy.deepcopy(tiny("llama"))

    def shake(module, args, logits):
        generator = torch.Generator().manual_seed(logits.shape[1])
        noise = torch.randn(logits.shape, generator=generator)
        return logits + amount * logits.std() * noise

    model.lm_head.register_forward_hook(shake)
    return model


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("kind", ["PrefixTuningConfig", "PromptTuningConfig"])
def test_adapters_that_put_tokens_before_the_text(kind):
    """Their forward puts them before whatever is fed, so that nothing can be fed behind a cache."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(copy.deepcopy(tiny("llama")), options).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "prompt_encoder" in name:
                weights.normal_(std=0.5)
    assert probe(model).kind is UNCACHED
    config = FLyConfig(acceptance="native", spd_k=4)
    engine = SpeculativeDecoder(model, tiny("llama"), tiny_tokenizer(), config, batch_size=2)
    results = engine.generate(prompts(3), max_new_tokens=12)
    want = [generate(model, ids, 12) for ids in prompts(3)]
    without = [generate(tiny("llama"), ids, 12) for ids in prompts(3)]
    assert [result.token_ids for result in results] == want != without


def test_equal_logits_are_served():
    """They have no standard deviation to measure by; the first token is everybody's argmax."""
    model = copy.deepcopy(tiny("llama", eos_token_id=None))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert probe(model).kind is BATCHED
    config = FLyConfig(acceptance="native", drafter="ngram")
    engine = SpeculativeDecoder(model, None, tiny_tokenizer(), config)
    [result] = engine.generate([[5, 6, 7]], max_new_tokens=9)
    assert result.token_ids == generate(model, [5, 6, 7], 9) == [0] * 9


def test_logits_that_are_no_longer_equal_are_off():
    equal = torch.full((2, 3), 4.0)
    assert share(torch.zeros(2, 3), equal) == 0.0
    assert share(torch.full((2, 3), 1e-3), equal) == float("inf")
    assert share(torch.full((2, 3), float("nan")), torch.randn(2, 3)) == float("inf")


def test_products_that_are_rounded_may_differ_more():
    exact = tiny("llama")
    rough = copy.deepcopy(exact).bfloat16()
    assert tolerance(exact) < tolerance(rough)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert tolerance(exact) == tolerance(rough)
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_under_autocast_is_batched():
    with torch.autocast("cpu", torch.bfloat16):
        assert probe(tiny("llama")).kind is BATCHED


@pytest.mark.parametrize("context", [2, 3, 5, 9])
def test_a_short_context(context):
    model = tiny("gpt2", max_position_embeddings=context)
    assert probe(model).kind is BATCHED


def test_tokens_without_numbers_are_no_reason_to_leave_a_tier():
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.model.embed_tokens.weight[4] = float("nan")
    assert probe(model).kind is BATCHED
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    assert probe(model).kind is BATCHED, "decoding will say that logits are not finite"


def test_running_out_of_memory_says_nothing_about_the_tier():
    model = copy.deepcopy(tiny("llama"))

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    model.forward = full
    with pytest.raises(torch.OutOfMemoryError):
        probe(model)


def test_the_model_stays_as_it_was():
    model = copy.deepcopy(FAMILIES["Gemma 2"].model())
    before = {name: states.clone() for name, states in model.state_dict().items()}
    probe(model)
    assert all(torch.equal(before[name], states) for name, states in model.state_dict().items())
    assert not any(weights.grad is not None for weights in model.parameters())
    served = SlotModel(model)
    assert served.cache.num_rows == served.cache.capacity == 0
