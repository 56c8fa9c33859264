"""FLyConfig: the shipped files, what follows from the settings, and each way to get them wrong."""

import json
import pickle
import warnings
from pathlib import Path

import pytest

import fly_config
from fly.config import MAX_K, FLyConfig, json_schema, resolve_config_path, shipped_configs
from fly.errors import ConfigError, FLyWarning

SHIPPED = Path(fly_config.__file__).parent


def write(folder: Path, text: str | dict[str, object], name: str = "some.json") -> Path:
    file = folder / name
    file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return file


# --- the shipped files


def test_shipped_configs_are_the_four():
    names = ["FLy_Llama3_405b", "FLy_Llama3_70b", "FLy_Qwen2.5_72b", "demo"]
    assert shipped_configs() == names


@pytest.mark.parametrize("name", ["FLy_Llama3_405b", "FLy_Llama3_70b", "FLy_Qwen2.5_72b", "demo"])
def test_shipped_config_loads_and_names_the_schema(name):
    config = FLyConfig.load(name)
    assert config.setup.rule_name == "fly"
    assert (config.win_len, config.setup.fly_rule.threshold, config.temperature) == (6, 0.3, 0.0)
    pointer = json.loads((SHIPPED / f"{name}.json").read_text())["$schema"]
    assert (SHIPPED / pointer).is_file()


SHIPPED_PAIRS = {
    "FLy_Llama3_70b": ("Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct", 15, "model"),
    "FLy_Llama3_405b": ("Llama-3.1-8B-Instruct", "Llama-3.1-405B-Instruct", 25, "model"),
    "FLy_Qwen2.5_72b": ("Qwen2.5-7B-Instruct", "Qwen2.5-72B-Instruct", 15, "model"),
    "demo": ("draft", "target", 15, "model"),
}


@pytest.mark.parametrize(("name", "expected"), SHIPPED_PAIRS.items())
def test_shipped_pair(name, expected):
    config = FLyConfig.load(name)
    models = (Path(str(config.draft_model_path)).name, Path(str(config.target_model_path)).name)
    assert (*models, config.spd_k, config.drafter_name) == expected


def test_demo_pair_is_beside_the_package():
    config = FLyConfig.load("demo")
    assert Path(str(config.target_model_path)) == (SHIPPED / "../fly/demo/target").resolve()


def test_schema_is_current():
    written = json.loads((SHIPPED / "schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(), "run `python -m fly.config`"


def test_schema_describes_every_key():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"$schema", *FLyConfig.model_fields}
    assert all(field["description"] for field in schema["properties"].values())


# --- finding a file


FOUND = ["demo", "demo.json", "fly_config/demo.json", "fly_config/demo"]


@pytest.mark.parametrize("name", FOUND)
def test_shipped_config_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_config_path(name) == SHIPPED / "demo.json"


def test_an_existing_file_wins_over_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"spd_k": 9}, "demo.json")
    assert FLyConfig.load("demo.json").spd_k == 9


def test_a_folder_called_like_a_shipped_config_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert resolve_config_path("demo") == SHIPPED / "demo.json"


def test_missing_file_lists_the_shipped_ones():
    with pytest.raises(ConfigError) as caught:
        FLyConfig.load("fly_config/FLy_Llama_70b.json")
    assert "'fly_config/FLy_Llama_70b.json' does not exist" in caught.value.message
    assert "did you mean 'FLy_Llama3_70b'?" in caught.value.message
    assert "FLy_Llama3_405b, FLy_Llama3_70b, FLy_Qwen2.5_72b, demo" in caught.value.fix


def test_directory_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="is a directory"):
        FLyConfig.load(tmp_path)


# --- reading a file


BAD_FILES = {
    "comma": ('{"spd_k": 15,\n "win_len" 6}', "some.json: line 2, column 12: not valid JSON"),
    "empty": ("", "line 1, column 1: not valid JSON"),
    "list": ("[15]", r"some.json: holds \[15\], but a configuration is an object"),
    "twice": ('{"spd_k": 15, "spd_k": 9}', "some.json: key 'spd_k' is written twice"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_malformed_file(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        FLyConfig.load(write(tmp_path, text))


def test_file_that_is_no_text(tmp_path):
    file = tmp_path / "some.json"
    file.write_bytes(b'{"spd_k": \xff}')
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        FLyConfig.load(file)


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    file = write(tmp_path, {})
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        FLyConfig.load(file)


def test_byte_order_mark_is_fine(tmp_path):
    file = tmp_path / "some.json"
    file.write_bytes(b'\xef\xbb\xbf{"spd_k": 9}')
    assert FLyConfig.load(file).spd_k == 9


def test_file_without_any_setting_is_the_defaults(tmp_path):
    assert FLyConfig.load(write(tmp_path, {"$schema": "x"})) == FLyConfig() == FLyConfig.load(None)


# --- single settings


BAD_VALUES = {
    "unknown key": ({"spdk": 15}, "unknown key 'spdk'; did you mean 'spd_k'?"),
    "far key": ({"zzzzzz": 15}, "unknown key 'zzzzzz'"),
    "text for number": (
        {"spd_k": "15"},
        "spd_k is '15', but it must be a whole number from 1 to 128",
    ),
    "bool for number": (
        {"spd_k": True},
        "spd_k is True, but it must be a whole number from 1 to 128",
    ),
    "float for int": (
        {"win_len": 6.0},
        "win_len is 6.0, but it must be a whole number of at least 1",
    ),
    "number for bool": ({"use_sd": 1}, "use_sd is 1, but it must be true or false"),
    "null for bool": ({"use_sd": None}, "use_sd is None, but it must be true or false"),
    "number for text": (
        {"target_model_path": 8},
        "target_model_path is 8, but it must be a text that is not empty or null",
    ),
    "empty text": ({"draft_model_path": ""}, "draft_model_path is '', but it must be a text"),
    "K zero": ({"spd_k": 0}, "spd_k is 0, but it must be a whole number from 1 to 128"),
    "K negative": ({"spd_k": -3}, "spd_k is -3, but"),
    "K huge": ({"spd_k": MAX_K + 1}, "spd_k is 129, but"),
    "W zero": ({"win_len": 0}, "win_len is 0, but it must be a whole number of at least 1"),
    "gate negative": ({"entropy_thre": -0.1}, "entropy_thre is -0.1, but it must be a number of"),
    "gate nan": ({"entropy_thre": float("nan")}, "entropy_thre is nan, but it must be a number"),
    "gate infinite": ({"entropy_thre": float("inf")}, "entropy_thre is inf, but it must be"),
    "temperature": (
        {"temperature": -1},
        "temperature is -1, but it must be a number of at least 0",
    ),
    "n-gram size": ({"max_ngram_size": 0}, "max_ngram_size is 0, but"),
    "n-gram tokens": ({"num_ngram_pred_tokens": 0}, "num_ngram_pred_tokens is 0, but"),
    "bound": ({"total_gen_tok": 0}, "total_gen_tok is 0, but"),
    "drafter": ({"drafter": "n-gram"}, "or null; did you mean 'ngram'?"),
    "acceptance": (
        {"acceptance": "exact"},
        "acceptance is 'exact', but it must be 'native' or 'fly'",
    ),
    "variant": (
        {"fly_variant": "Paper"},
        "but it must be 'official' or 'paper' or 'vllm'; did you",
    ),
    "entropy": ({"entropy": "normalized"}, "did you mean 'normalised'?"),
    "dtype": ({"draft_dtype": "fp16"}, "draft_dtype is 'fp16', but it must be 'auto' or"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_bad_value_names_file_key_value_and_what_is_allowed(settings, message, tmp_path):
    file = write(tmp_path, settings)
    with pytest.raises(ConfigError) as caught:
        FLyConfig.load(file)
    assert caught.value.message.startswith(f"{file}: ")
    assert message in caught.value.message
    assert caught.value.fix


def test_all_bad_values_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        FLyConfig.from_mapping({"spd_k": 0, "win_len": 0, "winlen": 3}, where="here")
    assert [line.split(" is ")[0] for line in caught.value.message.splitlines()] == [
        "here: spd_k",
        "here: win_len",
        "here: unknown key 'winlen'; did you mean 'win_len'?",
    ]


def test_constructor_raises_config_errors_too():
    with pytest.raises(ConfigError, match="FLyConfig: spd_k is 0"):
        FLyConfig(spd_k=0)


def test_config_is_frozen_hashable_and_travels():
    config = FLyConfig(spd_k=9)
    with pytest.raises(ValueError, match="frozen"):
        config.spd_k = 3
    assert pickle.loads(pickle.dumps(config)) == config
    assert len({config, FLyConfig(spd_k=9)}) == 1


# --- combinations


IMPOSSIBLE = {
    "tree": ({"tree_verify": True, "drafter": "ngram"}, "which means 'tree'"),
    "tokenizers": ({"dual_tok": True, "drafter": "model"}, "which means 'other_tokenizer'"),
    "both": ({"dual_tok": True, "tree_verify": True}, "in the target's own vocabulary"),
    "ablation without gate": (
        {"abla_no_window": True, "entropy_thre": 0.0},
        "no gate mask exists",
    ),
    "ablation with a gate that is off": (
        {"abla_no_window": True, "entropy_thre": 0.01},
        "no gate mask exists",
    ),
    "ablation of native": (
        {"abla_no_window": True, "acceptance": "native"},
        "abla_no_window is true, but acceptance is 'native'",
    ),
    "two drafters": (
        {"use_ngram": True, "drafter": "ngram"},
        "drafter is 'ngram', but use_ngram is true, which means 'multilevel'",
    ),
    "drafter without drafting": (
        {"use_sd": False, "drafter": "model"},
        "drafter is 'model', but use_sd is false",
    ),
}


@pytest.mark.parametrize(("settings", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_combination(settings, message):
    with pytest.raises(ConfigError) as caught:
        FLyConfig.from_mapping(settings, where="some.json")
    assert caught.value.message.startswith("some.json: ")
    assert message in caught.value.message
    assert caught.value.fix


INERT = {
    "copies at K < W": (
        {"spd_k": 3, "drafter": "ngram", "loosen_copied": True},
        "nothing is loosened",
    ),
    "K = W": ({"spd_k": 6}, "spd_k 6 is not above win_len 6.*Set spd_k to at least 7"),
    "K < W": ({"spd_k": 3, "fly_variant": "paper"}, "nothing is loosened"),
    "gate off unsaid": ({"entropy_thre": 0.01}, "at most 0.01, which switches the gate off"),
    "above ln 3": ({"entropy_thre": 1.2}, "above 1.0986, the largest top3 entropy"),
    "above 1": ({"entropy_thre": 1.01, "fly_variant": "paper"}, "the largest normalised entropy"),
}


@pytest.mark.parametrize(("settings", "message"), INERT.values(), ids=INERT)
def test_what_loosens_nothing_is_said(settings, message):
    with pytest.warns(FLyWarning, match=message) as caught:
        FLyConfig.from_mapping(settings)
    assert len(caught) == 1


def arms(*names):
    """A bandit's settings."""
    return {"drafter": "bandit", "drafter_settings": {"arms": [{"drafter": n} for n in names]}}


COPYING = {  # settings, the rule asked for
    "ngram": ({"drafter": "ngram"}, "fly"),
    "suffix": ({"drafter": "suffix"}, "fly"),
    "retrieval": ({"drafter": "retrieval"}, "fly"),
    "at K < W": ({"drafter": "ngram", "spd_k": 3}, "fly"),
    "without a gate": ({"drafter": "ngram", "entropy_thre": 0.01}, "fly"),
    "ablation": ({"drafter": "suffix", "enable_fly": False, "abla_no_window": True}, "fly"),
    "typical": ({"drafter": "retrieval", "acceptance": "typical"}, "typical"),
    "by its settings": (
        {"drafter": "ngram", "acceptance": "margin", "acceptance_settings": {"ratio": 0.5}},
        "margin",
    ),
    "all arms": (arms("none", "ngram", "suffix"), "fly"),
}


@pytest.mark.parametrize(("settings", "rule"), COPYING.values(), ids=COPYING)
def test_copies_are_never_loosened_which_is_said_once(settings, rule):
    said = f"acceptance '{rule}' has no effect, 'native' decides"
    with pytest.warns(FLyWarning, match=said) as caught:
        config = FLyConfig.from_mapping(settings)
    assert len(caught) == 1
    assert (config.asked_acceptance, config.setup.rule_name) == (rule, "native")
    assert not config.setup.is_loose
    assert not config.setup.fly_rule
    native = {"acceptance": "native", "acceptance_settings": {}, "abla_no_window": False}
    assert config.fingerprint() == FLyConfig.from_mapping(settings | native).fingerprint()


LOOSENED = {
    "ngram": {"drafter": "ngram"},
    "retrieval, typical": {"drafter": "retrieval", "acceptance": "typical"},
    "all arms": arms("none", "ngram"),
    "an arm": arms("none", "model", "retrieval"),
}


@pytest.mark.parametrize("settings", LOOSENED.values(), ids=LOOSENED)
def test_loosening_copies_is_said_once(settings):
    said = "loosen_copied is true.*answers may turn into copies of the prompt"
    with pytest.warns(FLyWarning, match=said) as caught:
        config = FLyConfig.from_mapping(settings | {"loosen_copied": True})
    assert len(caught) == 1
    assert config.setup.is_loose
    assert config.setup.loosens_copies
    assert config.setup.rule_name == config.asked_acceptance


def test_a_text_that_may_hold_loosened_copies_has_another_fingerprint():
    for settings in (arms("model", "suffix"), {"drafter": "ngram"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [FLyConfig(**settings, loosen_copied=each) for each in (False, True)]
        assert found[0].fingerprint() != found[1].fingerprint()


QUIET = {
    "defaults": {},
    "copies, native": {"drafter": "retrieval", "acceptance": "native"},
    "copies, by a rule that loosens nothing": {
        **{"drafter": "suffix", "acceptance": "margin", "acceptance_settings": {"max_gap": 0.0}},
    },
    "copies, native, loosened": {"drafter": "ngram", "enable_fly": False, "loosen_copied": True},
    "some arms copy": arms("model", "ngram"),
    "nothing to copy": {"loosen_copied": True},
    "nothing drafted": {"loosen_copied": True, "use_sd": False},
    "K = W + 1": {"spd_k": 7},
    "native at K < W": {"spd_k": 3, "enable_fly": False},
    "plain at K < W": {"spd_k": 3, "use_sd": False},
    "ablation at K < W": {"spd_k": 3, "abla_no_window": True},
    "gate off said": {"entropy_thre": 0},
    "low gate of vllm": {"entropy_thre": 0.005, "fly_variant": "vllm"},
    "many full nats": {"entropy_thre": 3.5, "entropy": "full"},
    "plain with n-gram keys": {"use_sd": False, "use_ngram": True},
}


@pytest.mark.parametrize("settings", QUIET.values(), ids=QUIET)
def test_sound_settings_are_quiet(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FLyConfig.from_mapping(settings)


# --- what follows from the settings


DRAFTERS = {  # settings: drafter, whether a draft model is needed
    "default": ({}, "model", True),
    "use_ngram": ({"use_ngram": True}, "multilevel", True),
    "explicit": ({"drafter": "multilevel"}, "multilevel", True),
    "agreeing": ({"drafter": "multilevel", "use_ngram": True}, "multilevel", True),
    "ngram": ({"drafter": "ngram", "acceptance": "native"}, "ngram", False),
    "none": ({"drafter": "none"}, "none", False),
    "plain": ({"use_sd": False}, "none", False),
    "plain with n-gram keys": ({"use_sd": False, "use_ngram": True}, "none", False),
}


@pytest.mark.parametrize(("settings", "name", "needs"), DRAFTERS.values(), ids=DRAFTERS)
def test_drafter(settings, name, needs):
    config = FLyConfig.from_mapping(settings)
    assert (config.drafter_name, config.setup.traits.needs_model) == (name, needs)


ACCEPTANCE = {
    "default": ({}, "fly"),
    "disabled": ({"enable_fly": False}, "native"),
    "explicit native": ({"acceptance": "native"}, "native"),
    "explicit fly": ({"acceptance": "fly", "enable_fly": False}, "fly"),
    "ablation needs no enable_fly": ({"enable_fly": False, "abla_no_window": True}, "fly"),
}


@pytest.mark.parametrize(("settings", "name"), ACCEPTANCE.values(), ids=ACCEPTANCE)
def test_acceptance(settings, name):
    assert FLyConfig.from_mapping(settings).setup.rule_name == name


GATES = {  # settings: kind, threshold
    "official": ({}, "top3", 0.3),
    "paper": ({"fly_variant": "paper"}, "normalised", 0.05),
    "vllm": ({"fly_variant": "vllm"}, "top3", 0.3),
    "full": ({"entropy": "full"}, "full", 0.6),
    "given": ({"entropy": "full", "entropy_thre": 0.9}, "full", 0.9),
    "official off": ({"entropy_thre": 0.0}, "top3", None),
    "paper at zero lets all pass": (
        {"entropy_thre": 0.0, "fly_variant": "paper"},
        "normalised",
        0.0,
    ),
    "just on": ({"entropy_thre": 0.011}, "top3", 0.011),
}


@pytest.mark.parametrize(("settings", "kind", "threshold"), GATES.values(), ids=GATES)
def test_gate(settings, kind, threshold):
    config = FLyConfig.from_mapping(settings)
    assert (config.setup.fly_rule.entropy, config.setup.fly_rule.threshold) == (kind, threshold)


def test_to_dict_is_json_and_comes_back():
    config = FLyConfig(spd_k=9, entropy_thre=0.4)
    assert FLyConfig.from_mapping(json.loads(json.dumps(config.to_dict()))) == config


SAME_TEXT = {
    "logging": {"verbose": True, "enable_statistics": True, "draft_device": "cuda:1"},
    "resolved defaults": {"entropy": "top3", "entropy_thre": 0.3, "drafter": "model"},
    "unused keys": {"max_ngram_size": 2, "branch_n": 3},
}
OTHER_TEXT = {
    "K": {"spd_k": 16},
    "W": {"win_len": 5},
    "gate": {"entropy_thre": 0.4},
    "rule": {"acceptance": "native"},
    "variant": {"fly_variant": "vllm"},
    "ablation": {"abla_no_window": True},
    "protection": {"protect_special_tokens": False},
    "protection of stop strings": {"protect_stop_strings": False},
    "drafter": {"drafter": "tree"},
    "target": {"target_model_path": "other/target"},
    "draft": {"draft_model_path": "other/draft"},
    "draft revision": {"draft_revision": "v2"},
    "bound": {"total_gen_tok": 64},
}


@pytest.mark.parametrize("settings", SAME_TEXT.values(), ids=SAME_TEXT)
def test_fingerprint_ignores_what_leaves_the_text(settings):
    assert FLyConfig.from_mapping(settings).fingerprint() == FLyConfig().fingerprint()


def test_a_length_that_is_asked_for_follows_the_clock_where_another_does_not():
    """Of sampled rows, so that their texts may differ."""
    prints = {
        FLyConfig(drafter="ngram", acceptance="native", draft_length=length).fingerprint()
        for length in ("adaptive", None, "fixed")
    }
    assert len(prints) == 3


@pytest.mark.parametrize("settings", OTHER_TEXT.values(), ids=OTHER_TEXT)
def test_fingerprint_sees_what_changes_the_text(settings):
    assert FLyConfig.from_mapping(settings).fingerprint() != FLyConfig().fingerprint()


def test_fingerprint_of_plain_decoding_knows_no_rule():
    plain = FLyConfig(use_sd=False)
    assert plain.fingerprint() == FLyConfig(use_sd=False, spd_k=9, win_len=2).fingerprint()


# --- overrides


OVERRIDES = {  # key, given, read
    "int": ("spd_k", "9", 9),
    "float": ("entropy_thre", "0.4", 0.4),
    "float as int": ("entropy_thre", "1", 1.0),
    "true": ("use_ngram", "true", True),
    "False": ("use_sd", "False", False),
    "none": ("entropy_thre", "None", None),
    "null": ("total_gen_tok", "null", None),
    "the drafter none": ("drafter", "none", "none"),
    "already cast": ("spd_k", 9, 9),
    "digits of a revision": ("draft_revision", 1234567, "1234567"),
}


@pytest.mark.parametrize(("key", "given", "read"), OVERRIDES.values(), ids=OVERRIDES)
def test_override_is_read_as_the_keys_type(key, given, read):
    assert getattr(FLyConfig.load(None, {key: given}), key) == read


BAD_OVERRIDES = {
    "word": ({"spd_k": "many"}, "model_args: spd_k is 'many', but it must be a whole number"),
    "fraction": ({"spd_k": "1.5"}, "model_args: spd_k is '1.5', but"),
    "yes": ({"use_sd": "yes"}, "model_args: use_sd is 'yes', but it must be true or false"),
    "nan": ({"entropy_thre": "nan"}, "model_args: entropy_thre is nan, but"),
    "none where it cannot be": ({"spd_k": "none"}, "model_args: spd_k is 'none', but"),
    "unknown": ({"speed_k": "9"}, "model_args: unknown key 'speed_k'; did you mean 'spd_k'?"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_bad_override_names_the_flag(overrides, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        FLyConfig.load(write(tmp_path, {"spd_k": 9}), overrides)
    assert message in caught.value.message


def test_override_wins_and_can_mend_the_file(tmp_path):
    file = write(tmp_path, {"spd_k": 0, "tree_verify": True})
    config = FLyConfig.load(file, {"spd_k": "9", "tree_verify": "false"})
    assert config.spd_k == 9


def test_contradiction_names_both_places(tmp_path):
    file = write(tmp_path, {"use_ngram": True})
    with pytest.raises(ConfigError, match=r"^model_args and .*some\.json: drafter is 'ngram'"):
        FLyConfig.load(file, {"drafter": "ngram"})


# --- model folders


@pytest.mark.parametrize("written", ["models/big", "./models/big", "../here/models/big"])
def test_model_folder_is_relative_to_the_file(written, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    folder = tmp_path / "here"
    (folder / "models" / "big").mkdir(parents=True)
    config = FLyConfig.load(write(folder, {"target_model_path": written}))
    assert config.target_model_path == str((folder / "models" / "big").resolve())


def test_model_folder_of_an_override_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "here" / "big").mkdir(parents=True)
    (tmp_path / "big").mkdir()
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "here", {"target_model_path": "big"})
    assert FLyConfig.load(file).target_model_path == str((tmp_path / "here" / "big").resolve())
    config = FLyConfig.load(file, {"target_model_path": "big"})
    assert config.target_model_path == str((tmp_path / "big").resolve())


def test_hub_id_stays(tmp_path):
    file = write(tmp_path, {"target_model_path": "meta-llama/Llama-3.1-70B-Instruct"})
    assert FLyConfig.load(file).target_model_path == "meta-llama/Llama-3.1-70B-Instruct"


@pytest.mark.parametrize("written", ["./big", "../big", "/no/such/big", "~/no/such/big"])
def test_missing_model_folder_is_named(written, tmp_path):
    file = write(tmp_path, {"draft_model_path": written})
    resolved = str((tmp_path / Path(written).expanduser()).resolve())
    with pytest.raises(ConfigError) as caught:
        FLyConfig.load(file)
    assert caught.value.message == (
        f"{file}: draft_model_path is {written!r}, but there is no folder {resolved}"
    )


def test_missing_model_folder_is_no_matter_when_overridden(tmp_path):
    file = write(tmp_path, {"draft_model_path": "./gone"})
    assert FLyConfig.load(file, {"draft_model_path": "org/id"}).draft_model_path == "org/id"
