"""What several devices read goes to each of them once.  The device `meta` stands for another."""

import copy

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device

from fly.engine.model.devices import MovedOnce, has_hooks
from fly.engine.model.kv_cache import SlotMapping
from fly.engine.model.slots import SlotModel
from tests.models import prompts, tiny


def test_a_copy_is_made_once_a_device():
    tensor = MovedOnce.of(torch.arange(6))
    there = tensor.to("meta")
    assert there.device.type == "meta"
    assert tensor.to(torch.device("meta"), non_blocking=True) is there
    assert send_to_device({"mask": tensor}, torch.device("meta"))["mask"] is there
    assert tensor.to("cpu") is tensor


def test_otherwise_it_is_an_ordinary_tensor():
    tensor = MovedOnce.of(torch.arange(6.0))
    assert type(tensor + 1) is type(tensor[None]) is torch.Tensor
    assert torch.equal(tensor.to(torch.float64), torch.arange(6, dtype=torch.float64))
    assert tensor.to("cpu", torch.float64).dtype == torch.float64
    buffer = torch.zeros(6)
    buffer[MovedOnce.of(torch.tensor([1, 4]))] = 1.0
    assert buffer.tolist() == [0, 1, 0, 0, 1, 0]


def test_a_mapping_goes_to_each_device_once():
    spread = SlotMapping(MovedOnce.of(torch.tensor([[3, 4]])), 0, 3, 5)
    for index in (spread.rows, spread.slots):
        assert index.to("meta") is index.to("meta")
    assert type(SlotMapping(torch.tensor([[3, 4]]), 0, 3, 5).rows) is torch.Tensor


@torch.inference_mode()
def test_a_model_with_hooks_reads_the_same():
    """Its layers get masks and slots that remember where they were moved; one without, plain
    ones."""
    model = tiny("gemma2")
    asked = [list(prompt) for prompt in prompts(4)]
    ids, starts = torch.tensor([[5, 6, 7]] * 4), [len(prompt) for prompt in asked]
    plain = SlotModel(model)
    assert not has_hooks(model)
    plain.prefill(asked, 0)
    want = plain.extend(ids, starts)
    assert type(plain.cache.mapping.slots) is torch.Tensor
    model = copy.deepcopy(model)
    add_hook_to_module(model.model.layers[1], ModelHook())
    assert has_hooks(model)
    spread = SlotModel(model)
    spread.prefill(asked, 0)
    masks = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    assert torch.equal(spread.extend(ids, starts), want)
    assert [type(mask) for mask in masks] == [MovedOnce]
    assert isinstance(spread.cache.mapping.slots, MovedOnce)
