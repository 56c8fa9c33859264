"""Where a model's positions end."""

from types import SimpleNamespace

import pytest

from fly.decoding.positions import num_positions

LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 40}
CONFIGS = {  # attributes, positions
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


@pytest.mark.parametrize(("attributes", "positions"), CONFIGS.values(), ids=CONFIGS)
def test_positions_from_config(attributes, positions):
    assert num_positions(SimpleNamespace(**attributes)) == positions
