"""Attention as an accelerator wants it, forced on a CPU: the same numbers, without copies of keys
and values, and nobody else sees it."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fly.engine.model.attention import GROUPED, ServedAttention, grouped_attention, is_accelerated
from fly.engine.model.probe import deviation, tolerance
from fly.engine.model.slots import SlotModel
from tests.engine.architectures import BATCHED
from tests.models import prompts, tiny

ROWS, HEADS, SIZE, KEYS = 3, 2, 16, 48


class AcceleratedModel(SlotModel):
    """Served as on an accelerator."""

    accelerated = True


def states(groups, n, dtype=torch.float32):
    """Query, key, value and an additive mask in which every query sees something."""
    generator = torch.Generator().manual_seed(n)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    query = random(ROWS, groups * HEADS, n, SIZE)
    key, value = random(ROWS, HEADS, KEYS, SIZE), random(ROWS, HEADS, KEYS, SIZE)
    seen = torch.rand(ROWS, 1, n, KEYS, generator=generator) < 0.5
    seen[..., 0] = True
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return query, key, value, mask


def layer(groups):
    return SimpleNamespace(num_key_value_groups=groups, is_causal=True, layer_idx=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 7])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_equals_repeated_keys_and_values(groups, n, dtype):
    query, key, value, mask = states(groups, n, dtype)
    got, _ = grouped_attention(layer(groups), query, key, value, mask, scaling=0.3)
    repeated = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    want = functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    assert got.shape == (ROWS, n, groups * HEADS, SIZE)
    assert got.is_contiguous()
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, want.transpose(1, 2), atol=bound, rtol=bound)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("n", [1, 5])
def test_without_a_mask_it_is_the_usual_one(groups, n):
    query, key, value, _ = states(groups, n)
    key, value = key[:, :, :n], value[:, :, :n]
    got, want = (
        attend(layer(groups), query, key, value, None, scaling=0.3)[0]
        for attend in (grouped_attention, sdpa_attention_forward)
    )
    assert torch.equal(got, want)


class Copies(TorchDispatchMode):
    """Bytes of the largest tensor that anything but attention itself makes anew."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if "attention" not in str(func) and isinstance(made, torch.Tensor):
            known = {each.data_ptr() for each in args if isinstance(each, torch.Tensor)}
            if made.untyped_storage().data_ptr() not in known and made._base is None:
                self.largest = max(self.largest, made.numel() * made.element_size())
        return made


@pytest.mark.parametrize("n", [1, 2])
def test_neither_keys_nor_values_are_copied(n):
    groups = 4
    query, key, value, mask = states(groups, n)
    key_bytes = key.numel() * key.element_size()
    with torch.inference_mode(), Copies() as ours:
        grouped_attention(layer(groups), query, key, value, mask)
    assert ours.largest < key_bytes
    if n > 1:
        with torch.inference_mode(), Copies() as usual:
            sdpa_attention_forward(layer(groups), query, key, value, mask)
        assert usual.largest == groups * key_bytes, "what is avoided"


def test_on_a_cpu_nothing_changes():
    assert not is_accelerated(torch.device("cpu"))
    assert is_accelerated(torch.device("cuda", 1))
    model = tiny("llama")
    assert not SlotModel(model)._attention.takes_no_mask
    assert AcceleratedModel(model)._attention.takes_no_mask


def test_others_see_their_own_choice():
    model = tiny("llama")
    assert model.config._attn_implementation == "sdpa"
    layer_config = model.model.layers[0].self_attn.config
    attention = ServedAttention(model, accelerated=True)
    with attention():
        assert model.config._attn_implementation == GROUPED
        assert layer_config._attn_implementation == GROUPED
    assert model.config._attn_implementation == layer_config._attn_implementation == "sdpa"


def test_an_error_leaves_the_choice_as_it_was():
    model = tiny("llama")
    with pytest.raises(IndexError), torch.inference_mode():
        AcceleratedModel(model).extend(torch.tensor([[10**6]]).long() * -1, [0])
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_does_not_ask_the_registry_keeps_its_own():
    class Old(torch.nn.Module):
        config = None

    old = Old()
    vars(old)["config"] = LlamaConfig()
    old.config._attn_implementation = "sdpa"
    assert not ServedAttention(old, accelerated=True).takes_no_mask
    old._supports_attention_backend = True
    assert ServedAttention(old, accelerated=True).takes_no_mask
    old.config._attn_implementation = "eager"
    assert not ServedAttention(old, accelerated=True).takes_no_mask


@pytest.mark.parametrize(
    "family", [family for family in BATCHED if family.exists], ids=lambda family: family.name
)
@torch.inference_mode()
def test_every_family_reads_the_same(family):
    model = family.model()
    assert deviation(AcceleratedModel(model), model) <= tolerance(model)


@pytest.fixture
def calls(monkeypatch):
    """(has a mask, is causal) of every call of SDPA."""
    seen, attend = [], functional.scaled_dot_product_attention

    def watch(query, key, value, attn_mask=None, is_causal=False, **options):
        seen.append((attn_mask is not None, is_causal))
        return attend(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watch)
    return seen


@pytest.mark.parametrize("longest", [8, 40], ids=["inside the window", "past the window"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "qwen3"])
@torch.inference_mode()
def test_prompts_from_slot_0_need_no_mask(kind, longest, calls):
    """Ragged ones neither: a row's padding stands after all that it reads."""
    asked = [list(prompt[:longest]) for prompt in prompts(5)]
    plain, accelerated = SlotModel(tiny(kind)), AcceleratedModel(tiny(kind))
    plain.prefill(asked, 0)
    assert all(has_mask for has_mask, _ in calls)
    calls.clear()
    accelerated.prefill(asked, 0)
    cut_off = kind == "mistral" and longest > 8
    assert calls == [(cut_off, not cut_off)] * 2, "one call a layer"
    for one, other in zip(plain.cache.slot_layers, accelerated.cache.slot_layers, strict=True):
        for want, got in zip(one.buffers, other.buffers, strict=True):
            for row, prompt in enumerate(asked):
                known = slice(0, len(prompt))
                torch.testing.assert_close(
                    got[row, :, known], want[row, :, known], atol=1e-4, rtol=1e-4
                )
    ids = torch.tensor([[5, 6]] * len(asked))
    starts = [len(prompt) for prompt in asked]
    got, want = (each.extend(ids, starts) for each in (accelerated, plain))
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_what_continues_a_text_has_a_mask(calls):
    model = AcceleratedModel(tiny("llama"))
    model.prefill([[5, 6, 7], [8, 9, 10]], 0)
    calls.clear()
    model.extend(torch.tensor([[5, 6], [7, 8]]), [3, 3])
    assert calls == [(True, False)] * 2
