"""Views share the model's weights and leave the model as it is; what is left out is gone."""

import copy

import pytest
import torch
from torch import nn

from fly.engine.model.probe import BATCHED, probe
from fly.engine.self_draft.model_view import layer_list, view_of, without_layers
from fly.errors import ModelError
from tests.engine.architectures import FAMILIES
from tests.models import prompts, tiny

IDS = torch.tensor([prompts(6)[0][:12]])
# Layers of different kinds need one another, or hold parts of one another.
INTERTWINED = {"Qwen3-Next", "Nemotron-H", "Zamba2"}
PLAIN = [name for name in FAMILIES if name not in INTERTWINED]


def model_of(name):
    if not FAMILIES[name].exists:
        pytest.skip(f"this transformers has no {FAMILIES[name].kind}")
    return FAMILIES[name].model()


def snapshot(model):
    """All that a view might change: weights, numbers of layers, and the configuration."""
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    numbers = [getattr(part, "layer_idx", None) for part in model.modules()]
    return weights, numbers, copy.deepcopy(model.config.to_dict()), [*map(id, model.modules())]


def assert_unchanged(model, before):
    weights, numbers, config, modules = before
    assert {*weights} == {*model.state_dict()}
    assert all(torch.equal(weights[name], now) for name, now in model.state_dict().items())
    assert numbers == [getattr(part, "layer_idx", None) for part in model.modules()]
    assert model.config.to_dict() == config
    assert [*map(id, model.modules())] == modules


@torch.inference_mode()
def logits(model, ids=IDS):
    return model(input_ids=ids).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_a_view_is_the_model(name):
    model = model_of(name)
    before, said = snapshot(model), logits(model)
    view = view_of(model)
    assert torch.equal(logits(view), said)
    assert torch.equal(logits(model), said)
    assert_unchanged(model, before)
    assert not {*map(id, model.modules())} & {*map(id, view.modules())}
    assert {id(w) for w in view.parameters()} == {id(w) for w in model.parameters()}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", PLAIN)
def test_without_a_layer(name, number):
    """Served like the model, shares its weights, and says something else."""
    model = model_of(name)
    before = snapshot(model)
    view = without_layers(model, [number])
    assert probe(view.eval()).kind is FAMILIES[name].cache_here
    assert len(layer_list(view)) == view.config.get_text_config().num_hidden_layers
    assert_unchanged(model, before)
    assert {id(w) for w in view.parameters()} < {id(w) for w in model.parameters()}
    assert not torch.allclose(logits(view), logits(model), atol=1e-2)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_the_layers_that_stay_compute_what_they_did(kind):
    """A layer whose outputs are zero is as good as left out, whichever it is."""
    model = tiny(kind, num_hidden_layers=4)
    for gone in ([1], [0, 3], [1, 2, 3]):
        silent = copy.deepcopy(model)
        for number in gone:
            layer = layer_list(silent)[number]
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
        torch.testing.assert_close(logits(without_layers(model, gone)), logits(silent))


def test_the_kinds_of_layers_stay_with_them():
    kinds = ("sliding_attention", "full_attention", "sliding_attention", "full_attention")
    model = tiny("gemma3_text", num_hidden_layers=4, layer_types=kinds, head_dim=8)
    view = without_layers(model, [0, 2])
    assert view.config.layer_types == ["full_attention"] * 2
    for number, layer in enumerate(layer_list(view)):
        assert layer.self_attn.layer_idx == number
        assert layer.self_attn.is_sliding is False
    assert probe(view.eval()).kind is BATCHED


def test_layers_that_do_not_exist():
    model = tiny("llama")
    with pytest.raises(ModelError, match=r"layer 2, but LlamaForCausalLM has 2 layers\nFix: .* 1$"):
        without_layers(model, [0, 2])
    with pytest.raises(ModelError, match="names layer -1"):
        without_layers(model, [-1])
    with pytest.raises(ModelError, match=r"names all 2 layers[^\n]*\nFix: keep at least one"):
        without_layers(model, [0, 1])


def test_layers_that_cannot_be_found():
    model = tiny.__wrapped__("llama")
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ModelError, match=r"no list of 2 decoder layers .*\nFix: .*int8"):
        without_layers(model, [0])


def test_a_model_spread_by_hooks():
    model = tiny.__wrapped__("llama")
    model.model._hf_hook = object()
    with pytest.raises(ModelError, match=r"LlamaForCausalLM is spread over devices"):
        view_of(model)


def test_methods_put_in_place_belong_to_the_view():
    model = tiny.__wrapped__("llama")
    model.forward = type(model).forward.__get__(model)
    view = without_layers(model, [1])
    assert view.forward.__self__ is view
    assert not torch.allclose(logits(view), logits(model), atol=1e-2)


def test_a_compiled_model_is_viewed_as_it_was():
    class Compiled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    model = tiny("llama")
    assert torch.equal(logits(view_of(Compiled(model))), logits(model))
