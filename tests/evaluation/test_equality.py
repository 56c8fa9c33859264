"""Equal, tied, different: hand-made logits, and a real model fed token by token."""

from types import SimpleNamespace

import pytest
import torch

from fly.evaluation.equality import compare, one_by_one
from tests.models import generated, prompts, tiny

PROMPT, ANSWER = [9], [0, 1, 2]


class Counting:
    """A model that says 0, 1, 2, ... and at one place finds token 7 worse by `gap` only."""

    device = torch.device("cpu")

    def __init__(self, unsure: int, gap: float) -> None:
        self.unsure, self.gap = unsure, gap

    def __call__(self, input_ids, past_key_values, use_cache):
        place = past_key_values or 0
        row = torch.zeros(10)
        row[place] = 20.0
        if place == self.unsure:
            row[7] = 20.0 - self.gap
        return SimpleNamespace(logits=row[None, None], past_key_values=place + 1)


@pytest.mark.parametrize(
    ("unsure", "gap", "verdict"),
    [
        (1, 0.0, "tie"),
        (1, 1e-5, "tie"),
        (1, 0.01, "different"),
        (1, 9.0, "different"),
        (0, 0.0, "different"),  # unsure elsewhere
        (2, 0.0, "different"),
    ],
)
def test_a_tie_is_the_models_own_doubt(unsure, gap, verdict):
    assert compare(Counting(unsure, gap), PROMPT, ANSWER, [0, 7, 2]) == verdict


def test_a_model_without_a_cache_is_compared():
    """Its doubt is that behind the whole text, not behind the last token."""
    model = tiny("openai-gpt")
    text = list(prompts(1)[0])
    with torch.inference_mode():
        want = model(torch.tensor([text])).logits[0, -1]
    assert torch.allclose(one_by_one(model, text), want, atol=1e-5)
    own = generated(model, tuple(text), 5)
    other = [*own[:2], (own[2] + 1) % 90, *own[3:]]
    assert compare(model, text, own, other) == "different"


def test_nothing_is_compared_behind_a_tie():
    assert compare(Counting(0, 0.0), PROMPT, ANSWER, [7]) == "tie"
    assert compare(Counting(0, 0.0), PROMPT, ANSWER, [7, 5, 5, 5]) == "tie"


@pytest.mark.parametrize("answer", [[0, 1], [0, 1, 2, 3], []])
def test_an_end_elsewhere_is_a_difference(answer):
    assert compare(Counting(2, 0.0), PROMPT, ANSWER, answer) == "different"


def test_equal_whatever_the_sequence():
    assert compare(Counting(0, 0.0), PROMPT, ANSWER, tuple(ANSWER)) == "equal"


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_one_by_one_is_the_whole_forward(kind):
    model = tiny(kind)
    prompt = prompts(3)[0]
    ids = [*prompt, *generated(model, prompt, 8)]
    with torch.inference_mode():
        whole = model(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(one_by_one(model, ids), whole, rtol=1e-4, atol=1e-4)
