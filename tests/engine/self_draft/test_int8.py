"""Linear layers in 8 bits: close to those they were made of, which stay as they are."""

import copy

import pytest
import torch
from torch import nn

from fly.engine.model.probe import probe
from fly.engine.self_draft.int8 import Int8Linear, in_int8, quantise
from fly.errors import ModelError
from tests.engine.architectures import FAMILIES
from tests.engine.self_draft.test_model_view import assert_unchanged, logits, model_of, snapshot
from tests.models import VOCAB, tiny


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Falcon"])
def test_in_int8(name):
    """Close to the model, served like it, and nothing of it is changed."""
    model = model_of(name)
    before, said = snapshot(model), logits(model)
    view = in_int8(model)
    found = logits(view)
    error = float((found - said).square().mean().sqrt() / said.std())
    assert 0 < error < 0.25
    assert probe(view.eval()).kind is FAMILIES[name].cache_here
    assert_unchanged(model, before)
    assert torch.equal(logits(model), said)
    own = {id(weight) for weight in model.parameters()}
    assert {id(weight) for weight in view.parameters()} <= own


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_is_quantised(kind):
    view = in_int8(tiny(kind))
    parts = [part for part in view.modules() if isinstance(part, Int8Linear)]
    assert len(parts) == (2 * 7 + 1 if kind == "llama" else 2 * 4 + 1)
    assert all(part.whole.dtype == torch.int8 for part in parts)
    assert parts[-1].whole.shape == (VOCAB, 32)


def test_quantise_rounds_to_the_nearest():
    values = torch.tensor([[1.27, -0.64, 0.0, 0.014], [0.0, 0.0, 0.0, 0.0], [-2.54, 1.0, 0.0, 2.0]])
    whole, scale = quantise(values)
    assert whole.tolist() == [[127, -64, 0, 1], [0, 0, 0, 0], [-127, 50, 0, 100]]
    torch.testing.assert_close(scale[[0, 2], 0], torch.tensor([0.01, 0.02]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5)])
def test_int8_linear_is_the_product_of_what_was_quantised(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator)
    states = torch.randn(shape, generator=generator).to(dtype)
    got = Int8Linear(weight, bias)(states)
    (a, a_scale), (w, w_scale) = quantise(states), quantise(weight)
    want = (a.double() * a_scale) @ (w.double() * w_scale).T + bias
    assert got.dtype is dtype
    torch.testing.assert_close(
        got.double(), want, atol=1e-5 if dtype is torch.float32 else 0.05, rtol=0.01
    )


def test_nothing_to_quantise():
    model = tiny.__wrapped__("llama")
    for layer in model.model.layers:
        layer.self_attn = layer.mlp = nn.Identity()
    model.lm_head = nn.Identity()
    with pytest.raises(ModelError, match="no linear layers"):
        in_int8(model)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks
def test_those_who_look_at_a_weight_find_the_targets():
    """Adapters cast what comes in to the dtype of their layers' weights."""
    peft = pytest.importorskip("peft")
    inner = tiny("llama", num_hidden_layers=4)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(inner), lora).eval()
    said, found = logits(model), logits(in_int8(model))
    assert float((found - said).square().mean().sqrt() / said.std()) < 0.25
    assert not torch.allclose(said, logits(inner), atol=0.1)
