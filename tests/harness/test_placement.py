"""The draft goes where most room is, and too little of it is explained with numbers.  The room of
devices is made up: no test needs one."""

import copy

import pytest
import torch
from transformers import LlamaConfig

from fly.errors import ModelError
from fly.harness import FLyLM, placement
from fly.harness.placement import (
    GIB,
    Room,
    draft_devices,
    explaining_room,
    measure_room,
    move_draft,
    roomiest,
    weights_of,
    weights_planned,
)
from tests.models import tiny

CUDA = [torch.device("cuda", index) for index in range(3)]
NEEDED = 4 * sum(each.numel() for each in tiny("llama").parameters())


@pytest.fixture
def room(monkeypatch):
    """Sets what is free on the devices, in GiB, each of 80."""
    known = {}

    def measured(*free):
        known.clear()
        known.update(
            {torch.device("cuda", n): Room(int(f * GIB), 80 * GIB) for n, f in enumerate(free)}
        )
        return known

    monkeypatch.setattr(placement, "measure_room", lambda: known)
    return measured


CHOICES = {  # devices to choose from, free GiB of each device, chosen
    "alone": (CUDA[:1], [1, 60], 0),
    "most room": (CUDA[:2], [3, 40], 1),
    "first of equals": (CUDA[:2], [40, 40], 0),
    "first unknown": (CUDA[:2], [], 0),
}


@pytest.mark.parametrize(("devices", "free", "chosen"), CHOICES.values(), ids=CHOICES)
def test_the_roomiest_device(room, devices, free, chosen):
    assert roomiest(devices, room(*free)) == CUDA[chosen]


def test_devices_of_others_are_left_alone():
    class Spread:
        def parameters(self):
            return [torch.empty(1, device="meta"), *map(FakeWeights, [CUDA[2], CUDA[0], CUDA[2]])]

    class FakeWeights:
        def __init__(self, device):
            self.device = device

    assert draft_devices(Spread(), torch.device("cuda")) == [CUDA[0], CUDA[2]]
    assert draft_devices(tiny("llama"), torch.device("cpu")) == [torch.device("cpu")]


def test_weights_are_counted():
    model = tiny("llama")
    assert weights_of(model).num_bytes >= NEEDED
    assert weights_planned(model.config, "bfloat16").num_bytes == NEEDED // 2
    assert weights_planned(model.config, "auto").dtype == torch.float32
    assert weights_planned(model.config, None).num_bytes == NEEDED
    assert weights_planned("no configuration", None) is None
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 100}
    apart, tied = (
        weights_planned(LlamaConfig(**sizes, tie_word_embeddings=is_tied), None).num_bytes
        for is_tied in (False, True)
    )
    assert apart - tied == 100 * 32 * 4, "weights used twice count once"


def test_a_draft_without_room_is_refused_before_it_is_moved(room):
    small = NEEDED / GIB / 2
    with pytest.raises(
        ModelError, match=r"no room on cuda:0: cuda:0 has 0\.0 of 80\.0 GiB"
    ) as found:
        move_draft(tiny("llama"), "some/draft", CUDA[0], room(small, 7.25))
    assert "draft_model_path is 'some/draft'" in found.value.message
    assert "cuda:1 has 7.2 of 80.0 GiB free" in found.value.message
    assert "GiB in float32" in found.value.message
    assert "draft_device to cuda:1" in found.value.fix
    assert "draft_dtype to bfloat16" in found.value.fix
    with pytest.raises(ModelError) as found:
        move_draft(tiny("llama"), "some/draft", CUDA[0], room(small, small))
    assert "draft_device" not in found.value.fix
    assert "smaller draft" in found.value.fix


def test_a_draft_with_room_is_moved(room):
    model = copy.deepcopy(tiny("llama"))
    moved = move_draft(model, "some/draft", torch.device("meta"), room(1))
    assert {each.device.type for each in moved.parameters()} == {"meta"}


def test_what_the_allocator_refuses_is_explained(room):
    room(*[0.5] * 8)
    with (
        pytest.raises(ModelError, match="4 more devices") as found,
        explaining_room("target_model_path", "some/target", lambda: None),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert isinstance(found.value.__cause__, torch.OutOfMemoryError)
    assert "parallelize=True" in found.value.fix
    assert "smaller target" in found.value.fix


def test_a_target_without_room_is_explained(pair, monkeypatch, room):
    def refuse(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    room(0.25)
    monkeypatch.setattr(FLyLM.__mro__[1], "_create_model", refuse)
    with pytest.raises(
        ModelError, match=r"target_model_path is .* GiB in float32 .* cuda:0"
    ) as found:
        FLyLM(config_path=str(pair.config), device="cpu")
    assert "dtype to bfloat16" in found.value.fix
    assert "parallelize" not in found.value.fix


def test_the_draft_of_a_pair_goes_where_it_has_room(pair, monkeypatch, room):
    monkeypatch.setattr("fly.harness.loading.measure_room", lambda: room(5, 9))
    monkeypatch.setattr("fly.harness.lm.draft_devices", lambda *_: CUDA[:2])
    moved = []
    monkeypatch.setattr(
        "fly.harness.loading.move_draft",
        lambda draft, path, device, room: (moved.append(device), draft)[1],
    )
    FLyLM(config_path=str(pair.config), device="cpu")
    FLyLM(config_path=str(pair.config), device="cpu", draft_device="cuda:0")
    assert moved == [CUDA[1], CUDA[0]]


def test_without_an_accelerator_nothing_is_known():
    assert torch.cuda.is_available() or measure_room() == {}
