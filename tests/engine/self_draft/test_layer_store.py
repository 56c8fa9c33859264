"""What a search found is found again, by the same model, text and share alone."""

import copy
import json
import warnings
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from fly.engine.self_draft import layer_store
from fly.engine.self_draft.layer_search import LayerSet
from fly.engine.self_draft.layer_store import default_folder, find_or_search, key_of, spread
from fly.errors import FLyWarning
from tests.models import tiny

FOUND = LayerSet((1, 3), 0.75, 0.5)
IDS = torch.tensor([[5, 6, 7]])


class Spy:
    """A search that counts how often it is made."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return FOUND


def test_a_second_start_does_not_search(tmp_path):
    spy, folder = Spy(), tmp_path / "not" / "there"
    assert [find_or_search(folder, "abc", 4, spy) for _ in range(3)] == [FOUND] * 3
    assert spy.calls == 1
    assert [file.name for file in folder.iterdir()] == ["abc.json"]
    assert find_or_search(folder, "other", 4, spy) == FOUND
    assert spy.calls == 2


WRONG = {
    "nothing": "",
    "half a file": '{"left_out": [1',
    "no JSON": "\x00\x01",
    "another thing": "[1, 2]",
    "a key less": json.dumps({"left_out": [1], "cost": 0.5}),
    "a key more": json.dumps(FOUND.to_json() | {"more": 1}),
    "a layer that is not there": json.dumps(FOUND.to_json() | {"left_out": [4]}),
    "a negative layer": json.dumps(FOUND.to_json() | {"left_out": [-1]}),
    "all layers": json.dumps(FOUND.to_json() | {"left_out": [0, 1, 2, 3]}),
    "none": json.dumps(FOUND.to_json() | {"left_out": []}),
    "not numbers": json.dumps(FOUND.to_json() | {"left_out": ["1"]}),
    "more than all tokens": json.dumps(FOUND.to_json() | {"agreement": 1.5}),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_damaged_file_is_searched_anew(tmp_path, content):
    spy, file = Spy(), tmp_path / "abc.json"
    file.write_text(content)
    with pytest.warns(FLyWarning, match=r"abc\.json is damaged \(.+\); .* searched anew"):
        assert find_or_search(tmp_path, "abc", 4, spy) == FOUND
    assert find_or_search(tmp_path, "abc", 4, spy) == FOUND
    assert spy.calls == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    spy, file = Spy(), tmp_path / "file"
    file.write_text("")
    with pytest.warns(FLyWarning, match=r"cannot be stored .*cache_dir"):
        assert find_or_search(file / "folder", "abc", 4, spy) == FOUND


def test_the_key_knows_what_the_search_depends_on():
    model = tiny("llama")
    key = key_of(model, IDS, None)
    assert len(key) == 64
    assert key == key_of(copy.deepcopy(model), IDS.clone(), None)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight += 1e-3
    others = [
        key_of(model, IDS + 1, None),
        key_of(model, IDS, 0.5),
        key_of(changed, IDS, None),
        key_of(tiny("qwen3"), IDS, None),
        key_of(tiny("llama", rms_norm_eps=1e-3), IDS, None),
    ]
    assert len({key, *others}) == 6
    half = copy.deepcopy(model).bfloat16()
    assert key_of(half, IDS, None) != key


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 1000, 2**24 + 3, 49152 * 576, 2**40 + 1])
def test_places_are_spread_over_the_whole_weight(length):
    places = spread(length, 64).tolist()
    assert (places[0], places[-1]) == (0, length - 1)
    assert len(set(places)) == len(places) == min(64, length)
    steps = {after - before for before, after in pairwise(places)} or {0}
    assert max(steps) - min(steps) <= 1


def test_a_weight_of_more_numbers_than_float32_counts():
    """SmolLM2's embedding: float32 knows no 28311551, and rounds it to the length."""
    weight = torch.zeros(49152 * 576, dtype=torch.int8)
    model = SimpleNamespace(config=tiny("llama").config, state_dict=lambda: {"embed": weight})
    key = key_of(model, IDS, None)
    weight[-1] = 1
    assert key_of(model, IDS, None) != key


def test_a_weight_without_numbers():
    assert spread(0, 64).tolist() == []


def test_where_it_is_loaded_from_does_not_matter():
    model = copy.deepcopy(tiny("llama"))
    key = key_of(model, IDS, None)
    model.config._name_or_path = "/somewhere"
    assert key_of(model, IDS, None) == key


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fly" / "self"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "fly" / "self"


def test_the_file_is_never_half_there(monkeypatch, tmp_path):
    """Another process that reads while it is written finds all of it or nothing."""
    seen = []
    replace = layer_store.Path.replace
    monkeypatch.setattr(
        layer_store.Path,
        "replace",
        lambda self, to: (seen.append((to.exists(), self.read_text())), replace(self, to))[1],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_or_search(tmp_path, "abc", 4, Spy())
    assert seen == [(False, json.dumps(FOUND.to_json()) + "\n")]
