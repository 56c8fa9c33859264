"""Layers are left out one after the other, each time the one that is missed least."""

import copy
import logging
from itertools import combinations

import pytest
import torch

from fly.engine.self_draft import layer_search
from fly.engine.self_draft.layer_search import (
    PATIENCE,
    LayerSet,
    best_speed,
    can_improve,
    choices,
    greedy_path,
    search,
    weights_read,
)
from fly.engine.self_draft.model_view import layer_list, without_layers
from tests.models import prompts, tiny

IDS = torch.tensor([sum(prompts(8), ())])


def idle(numbers, num_layers=4, kind="llama", amount=0.02):
    """A model in which layers of these numbers do nearly nothing."""
    model = copy.deepcopy(tiny(kind, num_hidden_layers=num_layers))
    with torch.no_grad():
        for number in numbers:
            layer = layer_list(model)[number]
            layer.self_attn.o_proj.weight *= amount
            layer.mlp.down_proj.weight *= amount
    return model


def share(model, left_out):
    """From the definition: how often the choices are alike without these layers."""
    return (choices(without_layers(model, left_out), IDS) == choices(model, IDS)).float().mean()


@pytest.mark.parametrize("numbers", [(2,), (3,), (1, 3), (1, 2, 3)])
def test_finds_the_layers_that_do_nothing(numbers):
    model = idle(numbers)
    found = search(model, IDS)
    assert found.left_out == numbers
    assert found.agreement == pytest.approx(share(model, numbers))
    assert found.agreement > 0.7
    assert found.speed > 1


@pytest.mark.parametrize(("keep", "num_left_out"), [(0.75, 1), (0.5, 2), (0.1, 3), (0.99, 1)])
def test_keep_says_how_many_stay(keep, num_left_out):
    found = search(idle((1, 3)), IDS, keep)
    assert len(found.left_out) == num_left_out
    assert set(found.left_out) <= {1, 3} or {1, 3} < set(found.left_out)


def test_every_step_is_the_best_of_its_kind():
    model = idle((2,), amount=0.3)
    first, second = search(model, IDS, 0.75), search(model, IDS, 0.5)
    assert first.agreement == pytest.approx(max(share(model, [n]) for n in range(4)))
    pairs = [pair for pair in combinations(range(4), 2) if set(first.left_out) < set(pair)]
    assert second.agreement == pytest.approx(max(share(model, pair) for pair in pairs))


def test_layers_that_others_need_stay(monkeypatch):
    """A layer without which the model raises cannot be left out."""
    model, asked = idle((1, 3)), choices
    needed = layer_list(model)[3].mlp.gate_proj.weight
    assert search(model, IDS).left_out == (1, 3)

    def fragile(view, ids):
        if not any(weight is needed for weight in view.parameters()):
            raise KeyError("layer 3")
        return asked(view, ids)

    monkeypatch.setattr(layer_search, "choices", fragile)
    assert search(model, IDS).left_out == (1,)
    assert 3 not in search(model, IDS, 0.25).left_out


def test_out_of_memory_is_told(monkeypatch):
    model, asked = idle((0,)), choices

    def hungry(view, ids):
        if view is model:
            return asked(view, ids)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(layer_search, "choices", hungry)
    with pytest.raises(torch.OutOfMemoryError):
        search(model, IDS)


def test_a_path_ends_where_nothing_can_go():
    def judge(left_out):
        fits = len(left_out) < 3
        return LayerSet(left_out, 0.5 + 0.1 * left_out[0] if fits else -1.0, 0.5)

    path = list(greedy_path(4, 3, judge))
    assert [each.left_out for each in path] == [(3,), (2, 3)]


CASES = {  # agreement, cost, the estimate by hand
    "never right": (0.0, 0.5, 1 / 1.5),
    "always right, free but for its forward": (1.0, 0.0, 129.0),
    "always right, half the cost": (1.0, 0.5, 129 / 65),
    "0.5 at half the cost: one token": (0.5, 0.5, 1.5 / 1.5),
    "0.9 at a quarter": (
        0.9,
        0.25,
        max((1 - 0.9 ** (k + 1)) / 0.1 / (k / 4 + 1) for k in range(1, 99)),
    ),
}


@pytest.mark.parametrize(("agreement", "cost", "want"), CASES.values(), ids=CASES)
def test_best_speed(agreement, cost, want):
    assert best_speed(agreement, cost) == pytest.approx(want)
    assert LayerSet((0,), agreement, cost).speed == pytest.approx(want)


def test_a_search_ends_where_nothing_better_can_come():
    good, bad = LayerSet((1,), 0.9, 0.75), LayerSet((0, 1), 0.1, 0.5)
    assert can_improve(good, [good], 0.25)
    assert not can_improve(bad, [good, bad], 0.25)
    assert can_improve(bad, [bad], 0.25)


def test_a_search_ends_where_the_estimate_only_falls(monkeypatch):
    """Of ten layers all of which are missed none but a few are tried."""
    monkeypatch.setattr(layer_search, "can_improve", lambda *_: True)
    calls, asked = [], layer_search.choices
    monkeypatch.setattr(
        layer_search, "choices", lambda model, ids: (calls.append(1), asked(model, ids))[1]
    )
    model = idle((2,), num_layers=10)
    found = search(model, IDS)
    assert found.left_out == (2,)
    assert len(calls) == 1 + sum(10 - step for step in range(1 + PATIENCE))
    calls.clear()
    assert len(search(model, IDS, keep=0.1).left_out) == 9
    assert len(calls) == 1 + sum(range(2, 11))


@pytest.mark.parametrize(("is_long", "level"), [(True, "WARNING"), (False, "INFO")])
def test_a_search_says_what_it_takes(is_long, level, monkeypatch, caplog):
    """Before it begins, and where it is long so that it is seen whatever logging is set to."""
    monkeypatch.setattr(layer_search, "LONG_S", 0.0 if is_long else 1e9)
    with caplog.at_level(logging.INFO, "fly.engine.self_draft.layer_search"):
        search(idle((1, 3)), IDS)
    first, *steps = caplog.records
    assert first.levelname == level
    # 4 + 3 + 2 of four layers
    assert f"up to 9 forwards over {IDS.shape[1]} tokens" in first.getMessage()
    assert "left_out" in first.getMessage()
    assert [step.levelname for step in steps] == ["INFO"] * len(steps)
    assert "without layers [1, 3]" in "".join(step.getMessage() for step in steps)


def test_weights_that_are_only_looked_up_cost_nothing():
    untied, tied = tiny("llama"), tiny("llama", tie_word_embeddings=True)
    total = sum(weight.numel() for weight in untied.parameters())
    assert weights_read(untied) == total - 96 * 32
    assert weights_read(tied) == weights_read(untied)
    assert weights_read(without_layers(untied, [0])) < weights_read(untied)
