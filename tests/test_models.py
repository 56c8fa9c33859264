"""Models that tests share do not depend on which test asks for them first."""

import torch

from tests.models import blurred, tiny


def test_shared_models_are_never_made_in_inference_mode():
    """A test outside that mode fails with such weights, and only in some orders of the tests."""
    with torch.inference_mode():
        model = tiny("mistral", seed=7301)
        draft = blurred(model)
    assert not any(weights.is_inference() for m in (model, draft) for weights in m.parameters())
