"""Grids as they are typed and as they are filed, and what is wrong with them."""

import json
import re
import warnings
from types import SimpleNamespace

import pytest

from fly.config import FLyConfig
from fly.errors import ConfigError, FLyWarning
from fly.workbench.sweeps.grid import check_grid, grid_points, parse_grid, read_grid
from fly.workbench.sweeps.run import SweepPlan


def test_values_get_their_keys_types():
    found = parse_grid(
        [
            "spd_k=15,8",
            "entropy_thre=0,0.3,null",
            "abla_no_window=true,False",
            "drafter=model, ngram",
            "total_gen_tok=none,64",
        ]
    )
    assert found == {
        "spd_k": [15, 8],
        "entropy_thre": [0.0, 0.3, None],
        "abla_no_window": [True, False],
        "drafter": ["model", "ngram"],
        "total_gen_tok": [None, 64],
    }
    assert [type(value) for value in found["entropy_thre"]] == [float, float, type(None)]


def test_points_in_the_order_of_the_product():
    points = grid_points(parse_grid(["spd_k=15,9", "win_len=6,4", "entropy_thre=0.3,0"]))
    assert [point.name for point in points][:3] == [
        "spd_k=15,win_len=6,entropy_thre=0.3",
        "spd_k=15,win_len=6,entropy_thre=0",
        "spd_k=15,win_len=4,entropy_thre=0.3",
    ]
    assert len(points) == 8
    last = points[-1]
    assert last.settings == {"spd_k": 9, "win_len": 4, "entropy_thre": 0.0}
    assert last.config == FLyConfig(**last.settings)
    assert len({point.name for point in points}) == 8


def test_points_begin_with_the_configuration():
    [point] = grid_points(parse_grid(["spd_k=9"]), "demo", {"win_len": 3, "spd_k": 12})
    assert (point.config.spd_k, point.config.win_len) == (9, 3)
    assert point.config.target_model_path.endswith("target")
    names = [point.name for point in grid_points({"abla_no_window": [True], "entropy": [None]})]
    assert names == ["abla_no_window=true,entropy=null"]


NGRAM = {"drafter": "ngram"}
COPYING = {  # grid, overrides, points that loosen nothing
    "by the grid": (["drafter=model,ngram", "win_len=2,4"], {}, "2 of 4 points.*drafter=ngram"),
    "all of them": (["drafter=suffix,ngram"], {}, "2 of 2 points"),
    "by its rule": (["enable_fly=false,true"], {**NGRAM, "enable_fly": False}, "1 of 2 points"),
    "by its ablation": (["abla_no_window=true"], {**NGRAM, "enable_fly": False}, "1 of 1 points"),
    "said already": (["win_len=2,4"], NGRAM, None),
}


@pytest.mark.parametrize(("items", "overrides", "said"), COPYING.values(), ids=COPYING)
def test_points_whose_drafter_copies_are_counted(items, overrides, said, recwarn):
    points = grid_points(parse_grid(items), overrides=overrides)
    assert all(not point.config.setup.is_loose for point in points if "ngram" in point.name)
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == (said is not None)
    assert said is None or re.search(f"{said}.*copies the context", messages[0])


GRIDS = {
    "json": '{"spd_k": [5, 10], "win_len": [4], "entropy_thre": [0, null], "entropy": ["full"]}',
    "yaml": "spd_k: [5, 10]\nwin_len:\n  - 4\nentropy_thre: [0, null]\nentropy: [full]\n",
}


@pytest.mark.parametrize("suffix", GRIDS)
def test_files_hold_the_same_grid(tmp_path, suffix):
    file = tmp_path / f"grid.{suffix}"
    file.write_text(GRIDS[suffix])
    found = read_grid(file)
    assert found == {
        "spd_k": [5, 10],
        "win_len": [4],
        "entropy_thre": [0.0, None],
        "entropy": ["full"],
    }
    assert list(found) == ["spd_k", "win_len", "entropy_thre", "entropy"]


TYPED = {
    "spd_k": "no key=value,value",
    "=5": "no key=value,value",
    "spd_kk=5": "unknown key 'spd_kk'; did you mean 'spd_k'?",
    "spd_kk=": "unknown key 'spd_kk'; did you mean 'spd_k'?",
    "spd_k=": "spd_k has no values",
    "spd_k=5,,6": "has an empty value",
    "spd_k=5,x": "spd_k is 'x', but it must be a whole number from 1 to 128",
    "spd_k=0": "spd_k is 0, but it must be a whole number from 1 to 128",
    "acceptance_settings.ration=1": "'acceptance_settings.ration'; did you mean 'ratio'?",
    "drafter_settings.ratio=1": "unknown key 'drafter_settings.ratio'",
    "settings.ratio=1": "unknown key 'settings.ratio'",
    "acceptance_settings.ratio=": "acceptance_settings.ratio has no values",
    "acceptance_settings.ratio=.5,0.5": "acceptance_settings.ratio has the value 0.5 twice",
    "spd_k=5.5": "spd_k is '5.5', but it must be a whole number",
    "entropy_thre=-1": "entropy_thre is -1.0, but",
    "entropy_thre=nan": "entropy_thre is nan, but",
    "abla_no_window=1": "abla_no_window is '1', but it must be true or false",
    "drafter=modell": "did you mean 'model'",
    "spd_k=5,05": "spd_k has the value 5 twice",
    "entropy_thre=0,0.0": "entropy_thre has the value 0 twice",
    "temperature=0,0.7": "temperature cannot differ between points: a sweep decodes greedily",
    "draft_dtype=float16": "draft_dtype cannot differ between points: a sweep loads each model",
    "verbose=true": "verbose cannot differ between points: it changes no answer",
}


def test_settings_of_a_rules_own():
    grid = parse_grid(["acceptance=margin", "ratio=0.3,0.5"])
    assert grid["ratio"] == [0.3, 0.5]
    points = grid_points(grid)
    assert [point.config.acceptance_settings for point in points] == [
        {"ratio": 0.3},
        {"ratio": 0.5},
    ]
    assert points[0].name == "acceptance=margin,ratio=0.3"
    with pytest.raises(ConfigError, match="ratio"):
        grid_points(parse_grid(["acceptance=fly", "ratio=0.3"]))


def test_settings_behind_a_dot():
    given = {"acceptance": "margin", "acceptance_settings": {"window": 2}, "drafter": "suffix"}
    given |= {"loosen_copied": True, "drafter_settings": {"max_factor": 2.0}}
    grid = parse_grid(["acceptance_settings.ratio=0.3,0.5", "drafter_settings.min_match=2"])
    assert grid == {"acceptance_settings.ratio": [0.3, 0.5], "drafter_settings.min_match": [2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FLyWarning)
        points = grid_points(grid, overrides=given)
    assert [point.config.acceptance_settings["ratio"] for point in points] == [0.3, 0.5]
    assert {point.config.acceptance_settings["window"] for point in points} == {2}
    assert points[0].config.drafter_settings == {"max_factor": 2.0, "min_match": 2}
    assert points[0].name == "acceptance_settings.ratio=0.3,drafter_settings.min_match=2"
    assert points[0].settings == {"acceptance_settings.ratio": 0.3, "drafter_settings.min_match": 2}


def test_settings_behind_a_dot_are_those_of_the_points_rule():
    with pytest.raises(ConfigError, match=r"point acceptance_settings\.ratio=0\.3: .*ratio"):
        grid_points(parse_grid(["acceptance_settings.ratio=0.3"]))


@pytest.mark.parametrize(("item", "message"), TYPED.items())
def test_what_is_wrong_with_a_typed_grid_is_told(item, message):
    with pytest.raises(ConfigError) as caught:
        parse_grid([item])
    assert str(caught.value).startswith("--grid: ")
    assert message in str(caught.value)
    assert caught.value.fix


def test_a_key_twice_and_no_keys_are_told():
    with pytest.raises(ConfigError, match="key 'spd_k' is written twice"):
        parse_grid(["spd_k=5", "spd_k=6"])
    with pytest.raises(ConfigError, match="there are no keys"):
        parse_grid([])


def test_true_is_no_second_one():
    """In Python they are equal."""
    assert check_grid({"abla_no_window": [True, False], "spd_k": [1, 2]})
    with pytest.raises(ConfigError, match="spd_k is True"):
        check_grid({"spd_k": [1, True]})


FILED = {
    ("json", '{"spd_k": [5], "spd_k": [6]}'): "key 'spd_k' is written twice",
    ("yaml", "spd_k: [5]\nspd_k: [6]\n"): "key 'spd_k' is written twice",
    ("json", '{"spd_k": 5}'): "spd_k is 5, but a grid has a list of values",
    ("yaml", "spd_k: 5\n"): "spd_k is 5, but a grid has a list of values",
    ("json", '{"spd_k": {"a": 1}}'): "but a grid has a list of values",
    ("json", "[5]"): "holds no object",
    ("yaml", "- 5\n"): "holds no object",
    ("yaml", ""): "holds no object",
    ("json", '{"spd_k": [5,]}'): "not valid JSON",
    ("yaml", "spd_k: [5\n"): "not valid YAML",
    ("json", "{}"): "there are no keys",
    ("json", '{"spd_k": []}'): "spd_k has no values",
    ("json", '{"spd_k": [[5]]}'): "spd_k is [5], but it must be a whole number",
    ("yaml", "win_len: [4, yes]\n"): "win_len is True, but it must be a whole number",
    ("json", '{"spd_k": [null]}'): "spd_k is None, but it must be a whole number",
    ("json", '{"entropy_thre": [NaN]}'): "entropy_thre is nan, but it must be",
    ("json", '{"wine_len": [5]}'): "unknown key 'wine_len'; did you mean 'win_len'?",
}


@pytest.mark.parametrize(("content", "message"), FILED.items(), ids=map(str, FILED))
def test_what_is_wrong_with_a_filed_grid_is_told(tmp_path, content, message):
    suffix, text = content
    file = tmp_path / f"grid.{suffix}"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_grid(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_files_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_grid(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": 1}')
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_grid(tmp_path / "latin.json")


def test_an_impossible_combination_names_its_point():
    grid = parse_grid(["abla_no_window=false,true", "entropy_thre=0.3,0"])
    with pytest.raises(ConfigError) as caught:
        grid_points(grid)
    assert str(caught.value).startswith("point abla_no_window=true,entropy_thre=0: --grid: ")
    assert "no gate mask exists" in str(caught.value)


def test_a_configuration_that_samples_is_refused(tmp_path):
    file = tmp_path / "warm.json"
    file.write_text(json.dumps({"temperature": 0.7}))
    with pytest.raises(ConfigError, match=r"temperature is 0\.7, but a sweep decodes greedily"):
        grid_points({"spd_k": [9]}, file)


def test_points_that_loosen_nothing_are_counted_once():
    grid = parse_grid(["spd_k=4,5,10", "win_len=5,6", "entropy_thre=0.3,2"])
    with pytest.warns(FLyWarning) as told:
        points = grid_points(grid)
    assert len(points) == 12
    [message] = [str(warning.message) for warning in told]
    # Ten: all with K of 4 and 5, and those of K 10 with so high a gate.
    assert message.startswith(
        "--grid: 10 of 12 points loosen nothing (spd_k=4,win_len=5,entropy_thre=0.3, ...)"
    )


def test_other_warnings_are_said_once_each():
    grid = parse_grid(["spd_k=10,11,12", "entropy_thre=0.3,0.005"])
    with pytest.warns(FLyWarning) as told:
        grid_points(grid)
    [message] = [str(warning.message) for warning in told]
    assert "entropy_thre 0.005 is at most 0.01" in message


def test_a_grid_without_fault_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(grid_points(parse_grid(["spd_k=10,11", "acceptance=native,fly"]))) == 4


def test_lengths_are_fixed_where_they_would_follow_the_clock():
    """Points share their rounds; what is recommended was measured so."""
    grid = parse_grid(["drafter=suffix,self,model", "acceptance=native,fly", "spd_k=9"])
    with pytest.warns(FLyWarning, match="so 'native' decides"):
        points = grid_points(grid)
    assert {point.config.setup.draft_length for point in points} == {"fixed"}
    given = [point.config.draft_length for point in points]
    assert given == ["fixed"] * 3 + [None] * 3
    (kept,) = grid_points(parse_grid(["spd_k=9"]), None, {"draft_length": "adaptive"})
    assert kept.config.draft_length == "adaptive"  # SharedDecoding refuses it


def test_a_sweep_tells_whose_lengths_it_fixed():
    grid = parse_grid(["drafter=suffix,model,ngram", "acceptance=native"])
    for given, fixed in ((None, ["ngram", "suffix"]), ("fixed", [])):
        config = FLyConfig(draft_length=given)
        points = grid_points(grid, overrides=config.to_dict())
        assert SweepPlan(SimpleNamespace(config=config), grid, points, 0.5).fixed == fixed
