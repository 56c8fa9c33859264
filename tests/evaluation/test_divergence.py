"""First differences, against one found by hand with the model fed token by token."""

import pytest
import torch

from fly.evaluation.comparing import _find_divergences
from fly.evaluation.divergence import Divergences
from fly.evaluation.equality import TIE, one_by_one
from tests.evaluation.made_up import answer, ready
from tests.models import greedy, prompts, tiny

TARGET = tiny("llama")


def answers(own, other, origins=""):
    asked = ready("toy", 0).asked
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
    divergences = Divergences(TARGET)
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
    assert Divergences(TARGET).find((5,), *answers([4, 5], [4, 5], "ml")) is None
    assert Divergences(TARGET).find((5,), *answers([], [])) is None


@pytest.mark.parametrize("own_is_longer", [True, False])
def test_where_one_answer_ends_the_other_goes_on(own_is_longer):
    prompt = prompts(4)[0]
    long = greedy(TARGET, prompt, 6)
    own, other = (long, long[:4]) if own_is_longer else (long[:4], long)
    found = Divergences(TARGET).find(prompt, *answers(own, other))
    at, gap, _ = by_hand(prompt, own, other)
    assert found.at == at == 4
    assert found.gap == pytest.approx(gap, abs=1e-5)
    ends = (found.token, found.target_token)
    assert ends == ((None, f"<{long[4]}>") if own_is_longer else (f"<{long[4]}>", None))


def test_an_empty_answer_differs_at_its_beginning():
    found = Divergences(TARGET).find((5, 6), *answers([7, 8], []))
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
    found = Divergences(TARGET).find((5,), *answers(own, other, origins))
    assert (found.at, found.loose_at) == (3, loose_at)
    assert found.loose_token == (None if loose_at is None else f"<{other[loose_at]}>")


def test_a_tie_is_seen(monkeypatch):
    """Where the two best logits are the same, up to the last bits."""
    logits = torch.zeros(1, 1, 96)
    logits[..., 7], logits[..., 9] = 3.0, 3.0 - 1e-6
    monkeypatch.setattr("fly.evaluation.divergence.read_whole", lambda *_, **__: logits)
    found = Divergences(TARGET).find((5,), *answers([7], [9]))
    assert found.is_tie
    assert found.gap == pytest.approx(0, abs=1e-6)
    logits[..., 9] = 2.9
    assert not Divergences(TARGET).find((5,), *answers([7], [9])).is_tie


def test_a_context_is_looked_at_once(monkeypatch):
    calls = []

    def watching(model, ids, keep):
        calls.append(ids.tolist())
        return torch.zeros(1, 1, 96)

    monkeypatch.setattr("fly.evaluation.divergence.read_whole", watching)
    divergences = Divergences(TARGET)
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
    own = {one.asked.key[1:]: answer("target", one.asked, [7, 8]) for one in asked}
    texts = [[9, 9], [7, 8], [7, 9], [9, 8], [7, 8]]
    other = {
        one.asked.key[1:]: answer("fly", one.asked, ids)
        for one, ids in zip(asked, texts, strict=True)
    }
    found = _find_divergences(Divergences(TARGET), asked, own, other)
    assert {doc: where.at for doc, where in found.items()} == {1: 1}, "what is sampled may differ"
