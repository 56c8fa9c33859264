"""Packed weights give the same texts, change nothing of the model, and are used where a measurement
says so and nowhere else."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.engine.model import packed, packing_gains
from fly.engine.model.packed import PackedLinear, Packer, packable_layers, weight_of
from fly.engine.model.packing_gains import LINES, find_gains, line_class, pack_weight, shape_name
from fly.errors import FLyWarning
from tests.engine.self_draft.test_model_view import assert_unchanged, snapshot
from tests.models import assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

pytestmark = pytest.mark.skipif(
    not packing_gains.is_available(), reason="this torch has no packed products"
)
ALL = [True] * len(LINES)


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """The models of tests are packed, too, and nothing is stored for other tests."""
    monkeypatch.setattr(packed, "SMALLEST", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def products(monkeypatch):
    """Shapes of the states that packed products were asked for."""
    seen = []

    def counted(states, *rest):
        seen.append(tuple(states.shape))
        return packing_gains.packed_product(states, *rest)

    monkeypatch.setattr(packed, "packed_product", counted)
    return seen


def linear(kind):
    torch.manual_seed(0)
    if kind == "conv1d":
        return Conv1D(40, 24).eval()
    return nn.Linear(24, 40, bias=kind == "bias").eval()


def decoder(target, draft=None, batch_size=4, packer=None, **settings):
    config = FLyConfig(spd_k=5, draft_length="fixed", **{"acceptance": "native"} | settings)
    return SpeculativeDecoder(
        target, draft, tiny_tokenizer(), config, batch_size=batch_size, packer=packer
    )


@pytest.mark.parametrize("kind", ["plain", "bias", "conv1d"])
@pytest.mark.parametrize("lines", [1, 2, 3, 17, 300])
@torch.inference_mode()
def test_packed_layers_give_what_the_layer_gives(kind, lines, products):
    layer = linear(kind)
    states = torch.randn(1, lines, 24)
    found = PackedLinear(layer, pack_weight(weight_of(layer)), ALL)(states)
    assert products
    torch.testing.assert_close(found, layer(states), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_products_are_packed_for_chosen_numbers_of_lines_only(products):
    layer = linear("bias")
    pays = [lines in (4, 8) for lines in LINES]
    made = PackedLinear(layer, pack_weight(layer.weight), pays)
    for lines in (1, 2, 3, 4, 5, 8, 9, 64):
        made(torch.randn(lines, 24))
    assert [shape[0] for shape in products] == [3, 4, 5, 8]


def test_line_classes_cover_all_numbers():
    for place, most in enumerate(LINES):
        least = LINES[place - 1] + 1 if place else 1
        assert line_class(least) == line_class(most) == place
    assert line_class(100_000) == len(LINES) - 1


@pytest.mark.parametrize("how", ["gradient", "autocast", "dtype"])
def test_where_the_packed_product_would_be_wrong_the_layer_runs_as_before(how, products):
    layer = linear("bias")
    made = PackedLinear(layer, pack_weight(layer.weight), ALL)
    states = torch.randn(2, 24)
    if how == "gradient":
        made(states).sum().backward()
        assert layer.weight.grad is not None
    elif how == "autocast":
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert made(states).dtype == torch.bfloat16
    else:
        with torch.no_grad(), pytest.raises(RuntimeError):
            made(states.double())  # as the layer itself
    assert not products


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(
    "settings", [{}, {"drafter": "multilevel"}, {"tree_verify": True}], ids=str
)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_text_equals_generate(kind, settings, batch_size, products):
    target = tiny(kind)
    before = snapshot(target)
    asked = prompts(6)
    engine = decoder(target, blurred(target), batch_size, packed="on", **settings)
    answers = [result.token_ids for result in engine.generate(asked, max_new_tokens=20)]
    want = [generated(target, ids, 20) for ids in asked]
    assert_same(target, asked, answers, want)
    assert_unchanged(target, before)
    assert products
    layers = len(packable_layers(target))
    assert engine.packed["target"]["layers"] == engine.packed["target"]["of"] == layers
    assert engine.packed["draft"]["layers"] == layers


def test_models_served_row_by_row_are_packed(products):
    target = tiny("falcon_mamba", num_hidden_layers=2, state_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = decoder(target, None, 1, packed="on", use_sd=False)
    engine.generate(prompts(2), max_new_tokens=4)
    assert engine.served["target"] != "batched"
    assert products


# peft 0.21 asks transformers 5.23 by an old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_are_left_alone():
    """Merging an adapter writes into its base layer."""
    loaded = get_peft_model(
        tiny("llama", seed=31).__class__(tiny("llama", seed=31).config),
        LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ).eval()
    names = {id(part): name for name, part in loaded.named_modules()}
    found = [names[id(layer)] for layer in packable_layers(loaded)]
    assert found
    assert not [name for name in found if "q_proj" in name or "lora" in name]


def test_hooked_layers_are_left_alone():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(linear("bias"), linear("bias"), Own(3, 3), linear("plain"))
    model[0].register_forward_hook(lambda *_: None)
    model[1].forward = model[1].forward
    assert packable_layers(model) == [model[3]]


def test_a_draft_made_of_the_target_shares_its_packed_weights():
    target = tiny("llama", num_hidden_layers=4)
    packer = Packer("on")
    engine = decoder(
        target, packer=packer, drafter="self", drafter_settings={"left_out": [1]}, batch_size=2
    )
    asked = prompts(3)
    answers = [result.token_ids for result in engine.generate(asked, max_new_tokens=12)]
    assert_same(target, asked, answers, [generated(target, ids, 12) for ids in asked])
    assert packer.summary["draft"]["layers"] == packer.summary["target"]["layers"] - 7
    assert len(packer._packed) == packer.summary["target"]["layers"]


def test_int8_drafts_are_made_of_the_model_as_it_was_loaded():
    engine = decoder(
        tiny("llama"), packed="on", drafter="self", drafter_settings={"how": "int8"}, batch_size=2
    )
    assert engine.served["drafter"] == "self"
    assert engine.packed["draft"] is None, "8 bits are not packed"


def test_weights_changed_in_place_are_packed_anew():
    target = tiny("llama", seed=32).__class__(tiny("llama", seed=32).config).eval()
    engine = decoder(target, use_sd=False, packed="on")
    asked = prompts(2)
    engine.generate(asked, max_new_tokens=8)
    engine.release()  # what the cache holds is of the weights before
    with torch.no_grad():
        for weights in target.parameters():
            if weights.dim() > 1:
                weights.copy_(torch.randn(weights.shape) / 4)
    found = [result.token_ids for result in engine.generate(asked, max_new_tokens=8)]
    generated.cache_clear()
    assert_same(target, asked, found, [generated(target, ids, 8) for ids in asked])


def test_weights_packed_anew_stay_shared():
    """A draft that is made of the target later reads the new ones, too."""
    target = tiny("llama", seed=33, num_hidden_layers=3)
    target = target.__class__(target.config).eval()
    packer = Packer("on")
    engine = decoder(target, packer=packer, use_sd=False)
    with torch.no_grad():
        for weights in target.parameters():
            weights.mul_(1.5)
    packer.refresh()
    own = set(packed.packed_weights(engine.pair.target.view))
    config = engine.config.changed(
        use_sd=True, drafter="self", drafter_settings={"left_out": [1]}, spd_k=3
    )
    drafting = engine.with_config(config).pair.draft
    assert set(packed.packed_weights(drafting.view)) < own


def test_without_the_operations_models_run_as_loaded(monkeypatch, products):
    monkeypatch.setattr(packed, "is_available", lambda: False)
    with pytest.warns(FLyWarning, match="packed is on, but the target runs as it was loaded"):
        engine = decoder(tiny("llama"), use_sd=False, packed="on")
    engine.generate(prompts(2), max_new_tokens=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder(tiny("llama"), use_sd=False, packed="auto")
    assert engine.packed == {"target": None}
    assert not products


def test_wrong_products_are_never_used(monkeypatch):
    def wrong(states, packed_weight, bias):
        return packing_gains.packed_product(states, packed_weight, bias) + 0.5

    monkeypatch.setattr(packed, "packed_product", wrong)
    with pytest.warns(FLyWarning, match="its logits differ by .* when packed"):
        engine = decoder(tiny("llama"), use_sd=False, packed="on")
    asked = prompts(2)
    found = [result.token_ids for result in engine.generate(asked, max_new_tokens=8)]
    assert found == [generated(tiny("llama"), ids, 8) for ids in asked]
    monkeypatch.setattr(packing_gains, "packed_product", lambda *_, bias: torch.zeros(1))
    weight = torch.randn(8, 4)
    monkeypatch.setattr(
        packing_gains, "_run", lambda product, states, parts: [torch.full((2,), len(str(product)))]
    )
    assert set(find_gains({shape_name(weight): [weight]})[shape_name(weight)].values()) == {0.0}


def test_copies_take_no_more_than_half_of_the_free_memory(monkeypatch, caplog):
    target = tiny("llama")
    sizes = sorted(4 * layer.weight.numel() for layer in packable_layers(target))

    class Memory:
        available = 2 * (sum(sizes) - sizes[-1] // 2)

    monkeypatch.setattr(packed.psutil, "virtual_memory", Memory)
    packer = Packer("on")
    packer.view(target, "target")
    assert 0 < packer.summary["target"]["layers"] < len(sizes)
    assert 1e6 * packer.summary["target"]["megabytes"] <= Memory.available / 2 + 5e4
    assert "more than half of the memory that is free" in caplog.text


def measured(monkeypatch, gain):
    """The measurement gives `gain` from now on; how often it was asked."""
    asked = []

    def fake(weights):
        asked.append(shape_name(weights[0]))
        return dict.fromkeys(LINES, gain)

    monkeypatch.setattr(packing_gains, "measure", fake)
    return asked


@pytest.mark.parametrize(("gain", "is_packed"), [(1.0, False), (2.0, True)])
def test_auto_packs_what_was_measured_to_pay_once(monkeypatch, gain, is_packed):
    asked = measured(monkeypatch, gain)
    target = tiny("llama")
    for _ in range(2):
        packer = Packer("auto")
        assert (packer.view(target, "target") is not target) == is_packed
        assert (packer.summary["target"] is not None) == is_packed
    shapes = {shape_name(weight_of(layer)) for layer in packable_layers(target)}
    assert sorted(asked) == sorted(shapes), "stored, so measured once"
    json.dumps(packer.summary)


def test_a_known_choice_is_used_without_measuring(monkeypatch):
    asked = measured(monkeypatch, 1.0)
    target = tiny("llama")
    choice = {shape_name(weight_of(layer)): [4] for layer in packable_layers(target)}
    packer = Packer("auto", choice)
    assert packer.view(target, "target") is not target
    assert set(map(tuple, packer.summary["target"]["lines"].values())) == {(4,)}
    assert not asked


def test_a_damaged_store_is_measured_anew(monkeypatch, tmp_path):
    asked = measured(monkeypatch, 2.0)
    weight = torch.randn(8, 4)
    group = {shape_name(weight): [weight]}
    find_gains(group)
    [file] = tmp_path.rglob("*.json")
    file.write_text("{")
    with pytest.warns(FLyWarning, match="is damaged"):
        assert find_gains(group)[shape_name(weight)][1] == 2.0
    assert find_gains(group)
    assert len(asked) == 2


def test_a_store_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    measured(monkeypatch, 2.0)
    (tmp_path / "fly").write_text("in the way")
    weight = torch.randn(8, 4)
    with pytest.warns(FLyWarning, match="cannot be stored"):
        find_gains({shape_name(weight): [weight]})


def test_the_real_measurement():
    """Its numbers are the machine's own; that both ways agree is looked at on the way."""
    weights = [torch.randn(64, 48) for _ in range(3)]
    gains = find_gains({"float32 64x48": weights})["float32 64x48"]
    assert list(gains) == list(LINES)
    assert all(gain > 0 for gain in gains.values())
