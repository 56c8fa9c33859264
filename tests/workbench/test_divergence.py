"""First differences, against one found by hand with the model fed token by token."""

from types import SimpleNamespace

import pytest
import torch

from fly.workbench.comparing import _find_divergences
from fly.workbench.divergence import TIE, Divergences, compare, one_by_one, top2_after
from tests.models import generated, greedy, prompts, tiny
from tests.workbench.made_up import answer, ready

TARGET = tiny("llama")


def top2(prompt, answer, place):
    return top2_after(TARGET, [*prompt, *answer[:place]])


def answers(own, other, origins=""):
    asked = ready("toy", 0)
    return answer("target", asked, own), answer("fly", asked, other, origins)


def by_hand(prompt, own, other):
    """Place, gap and tie of the first difference."""
    at = 0
    while at < min(len(own), len(other)) and own[at] == other[at]:
        at += 1
    logits = one_by_one(TARGET, [*prompt, *own[:at]])
    probs = logits.softmax(-1).sort(descending=True).values
    best = logits.sort(descending=True).values
    is_tie = bool(best[0] - best[1] < TIE * logits.std())
    return at, float(probs[0] - probs[1]), is_tie


@pytest.mark.parametrize("place", [0, 3, 7])
def test_first_difference_is_found_and_measured(place):
    divergences = Divergences(top2)
    for prompt in prompts(4):
        own = greedy(TARGET, prompt, 8)
        other = list(own)
        other[place] = (own[place] + 1) % 90 + 4
        found = divergences.find(prompt, *answers(own, other))
        at, gap, is_tie = by_hand(prompt, own, other)
        assert (found.at, found.is_tie) == (at, is_tie)
        assert found.gap == pytest.approx(gap, abs=1e-5)
        assert (found.token, found.target_token) == (f"<{other[at]}>", f"<{own[at]}>")


def test_equal_answers_differ_nowhere():
    assert Divergences(top2).find((5,), *answers([4, 5], [4, 5], "ml")) is None
    assert Divergences(top2).find((5,), *answers([], [])) is None


@pytest.mark.parametrize("own_is_longer", [True, False])
def test_where_one_answer_ends_the_other_goes_on(own_is_longer):
    prompt = prompts(4)[0]
    long = greedy(TARGET, prompt, 6)
    own, other = (long, long[:4]) if own_is_longer else (long[:4], long)
    found = Divergences(top2).find(prompt, *answers(own, other))
    at, gap, _ = by_hand(prompt, own, other)
    assert found.at == at == 4
    assert found.gap == pytest.approx(gap, abs=1e-5)
    ends = (found.token, found.target_token)
    assert ends == ((None, f"<{long[4]}>") if own_is_longer else (f"<{long[4]}>", None))


def test_an_empty_answer_differs_at_its_beginning():
    found = Divergences(top2).find((5, 6), *answers([7, 8], []))
    assert (found.at, found.token, found.target_token) == (0, None, "<7>")


LOOSE = {
    "none": ("mmmmmm", None),
    "behind": ("mmmmlm", None),
    "at the difference": ("mmmlmm", 3),
    "before": ("mlmmmm", 1),
    "the last one before": ("lmlmlm", 2),
    "others decoded": ("", None),
}


@pytest.mark.parametrize(("origins", "loose_at"), LOOSE.values(), ids=LOOSE)
def test_the_loosened_token_before_it(origins, loose_at):
    own, other = [10, 11, 12, 13, 14, 15], [10, 11, 12, 33, 14, 15]
    found = Divergences(top2).find((5,), *answers(own, other, origins))
    assert (found.at, found.loose_at) == (3, loose_at)
    assert found.loose_token == (None if loose_at is None else f"<{other[loose_at]}>")


def test_a_tie_is_seen(monkeypatch):
    """Where the two best logits are the same, up to the last bits."""
    logits = torch.zeros(1, 1, 96)
    logits[..., 7], logits[..., 9] = 3.0, 3.0 - 1e-6
    monkeypatch.setattr("fly.workbench.divergence.read_whole", lambda *_, **__: logits)
    found = Divergences(top2).find((5,), *answers([7], [9]))
    assert found.is_tie
    assert found.gap == pytest.approx(0, abs=1e-6)
    logits[..., 9] = 2.9
    assert not Divergences(top2).find((5,), *answers([7], [9])).is_tie


def test_a_context_is_looked_at_once(monkeypatch):
    calls = []

    def watching(model, ids, keep):
        calls.append(ids.tolist())
        return torch.zeros(1, 1, 96)

    monkeypatch.setattr("fly.workbench.divergence.read_whole", watching)
    divergences = Divergences(top2)
    for other in ([7, 9], [7, 10], [7, 11]):
        divergences.find((5,), *answers([7, 8], other))
    assert calls == [[[5, 7]]]


def test_an_item_is_its_first_greedy_answer_that_differs():
    asked = [
        ready("toy", 0, ids=(5, 6), temperature=0.8),
        ready("toy", 1, ids=(5, 6), copy=0),
        ready("toy", 1, ids=(5, 6), copy=1),
        ready("toy", 1, ids=(5, 6), copy=2),
        ready("toy", 2, ids=(5, 6)),
    ]
    own = {one.key[1:]: answer("target", one, [7, 8]) for one in asked}
    texts = [[9, 9], [7, 8], [7, 9], [9, 8], [7, 8]]
    other = {one.key[1:]: answer("fly", one, ids) for one, ids in zip(asked, texts, strict=True)}
    found = _find_divergences(Divergences(top2), asked, own, other)
    assert {doc: where.at for doc, where in found.items()} == {1: 1}, "what is sampled may differ"


# --- equal, tied, different

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
