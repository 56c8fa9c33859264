"""Masks from positions, against the definition spelt out in loops."""

from types import SimpleNamespace

import pytest
import torch

from fly.engine.model.masks import MaskPlan, num_positions
from fly.errors import ModelError
from tests.models import tiny

CONFIGS = {  # attributes, windows, by layer type
    "no window": ({}, {"full_attention": None}, False),
    "window null": ({"sliding_window": None}, {"full_attention": None}, False),
    "one window for all": ({"sliding_window": 4}, {"sliding_attention": 4}, False),
    "window switched off": (
        {"sliding_window": 4, "use_sliding_window": False},
        {"full_attention": None},
        False,
    ),
    "layers in turn": (
        {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        {"full_attention": None, "sliding_attention": 4},
        True,
    ),
    "all layers full": (
        {"sliding_window": 4, "layer_types": ["full_attention"] * 2},
        {"full_attention": None},
        False,
    ),
}


@pytest.mark.parametrize(("attributes", "windows", "by_type"), CONFIGS.values(), ids=CONFIGS)
def test_plan_from_config(attributes, windows, by_type):
    config = SimpleNamespace(model_type="toy", **attributes)
    assert MaskPlan.from_config(config) == MaskPlan(windows, by_type)


@pytest.mark.parametrize(
    ("kind", "windows"),
    [
        ("llama", {"full_attention": None}),
        ("qwen3", {"full_attention": None}),
        ("gemma2", {"full_attention": None, "sliding_attention": 12}),
        ("mistral", {"sliding_attention": 12}),
        ("gpt2", {"full_attention": None}),
    ],
)
def test_plan_of_real_configs(kind, windows):
    assert MaskPlan.from_config(tiny(kind).config).windows == windows


@pytest.mark.parametrize("layer", ["linear_attention", "chunked_attention", "mamba"])
def test_layers_that_slots_cannot_serve_are_refused_in_words(layer):
    config = SimpleNamespace(model_type="toy", layer_types=["full_attention", layer])
    with pytest.raises(ModelError, match=f"'toy' has layers of type {layer}") as caught:
        MaskPlan.from_config(config)
    assert "lm-eval's own hf" in caught.value.fix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 1, 3, 50])
def test_masks_by_definition(window, dtype):
    plan = MaskPlan({"full_attention": None, "sliding_attention": window}, by_layer_type=True)
    positions = torch.tensor([[0, 1, 2], [7, 8, 9], [3, 4, 5]])
    masks = plan.build(positions, 10, dtype)
    lowest = torch.finfo(dtype).min
    for kind, width in (("full_attention", None), ("sliding_attention", window)):
        mask = masks[kind]
        assert mask.shape == (3, 1, 3, 10)
        assert mask.dtype == dtype
        for b, row in enumerate(positions.tolist()):
            for i, position in enumerate(row):
                first = 0 if width is None else position - width + 1
                want = [0.0 if first <= slot <= position else lowest for slot in range(10)]
                assert mask[b, 0, i].tolist() == want


def test_one_kind_of_layers_takes_one_mask():
    plan = MaskPlan({"sliding_attention": 2}, by_layer_type=False)
    mask = plan.build(torch.tensor([[4]]), 6, torch.float32)
    assert (mask[0, 0, 0] == 0).tolist() == [False, False, False, True, True, False]


def test_a_token_always_sees_itself():
    plan = MaskPlan({"sliding_attention": 1}, by_layer_type=False)
    positions = torch.arange(8)[None]
    assert (plan.build(positions, 8, torch.float32)[0, 0].diagonal() == 0).all()


LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 40}
POSITIONS = {  # attributes, positions
    "no limit": ({}, None),
    "limit null": ({"max_position_embeddings": None}, None),
    "a limit": ({"max_position_embeddings": 90}, 90),
    "fixed frequencies": (
        {"max_position_embeddings": 90, "rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        90,
    ),
    # Frequencies grow behind max_position_embeddings, which the context never reaches.
    "dynamic": (
        {"max_position_embeddings": 90, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        90,
    ),
    "longrope": ({"max_position_embeddings": 90, "rope_parameters": LONGROPE}, 40),
    "longrope of transformers 4": (
        {
            "max_position_embeddings": 90,
            "original_max_position_embeddings": 50,
            "rope_scaling": {"type": "longrope"},
        },
        50,
    ),
    "longrope without an original length": (
        {"max_position_embeddings": 90, "rope_scaling": {"type": "longrope"}},
        90,
    ),
    "longrope in some layers": (
        {
            "max_position_embeddings": 90,
            "rope_parameters": {"full_attention": LONGROPE, "sliding_attention": None},
        },
        40,
    ),
}


@pytest.mark.parametrize(("attributes", "positions"), POSITIONS.values(), ids=POSITIONS)
def test_positions_from_config(attributes, positions):
    assert num_positions(SimpleNamespace(**attributes)) == positions
