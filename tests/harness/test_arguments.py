"""Model arguments: what is ours, what is HFLM's, what is refused before anything is opened."""

import pytest

from fly.errors import ConfigError, ModelError
from fly.harness.arguments import ModelArguments


def test_split_keeps_hflm_arguments(pair):
    split = ModelArguments.split(
        {"config_path": str(pair.config), "dtype": "float32", "spd_k": 4, "max_length": 128}
    )
    assert split.target == {"dtype": "float32", "max_length": 128}
    assert split.target_path == str(pair.target)
    assert (split.config.spd_k, split.config.draft_model_path) == (4, str(pair.draft))


def test_pretrained_is_the_draft_and_wins(pair):
    split = ModelArguments.split({"config_path": str(pair.config), "pretrained": str(pair.target)})
    assert split.config.draft_model_path == str(pair.target)


def test_all_settings_may_come_from_the_arguments(pair):
    split = ModelArguments.split(
        {"pretrained": str(pair.draft), "target_model_path": str(pair.target), "win_len": "5"}
    )
    assert split.config.win_len == 5


def test_arguments_are_not_changed(pair):
    given = {"config_path": str(pair.config), "dtype": "float32"}
    ModelArguments.split(given)
    assert given == {"config_path": str(pair.config), "dtype": "float32"}


REFUSED = {  # arguments beside the configuration, words of the message
    "unknown setting": ({"entropy_thres": 0.3}, ["entropy_thres", "entropy_thre"]),
    "wrong type": ({"spd_k": "many"}, ["spd_k", "many"]),
    "no proposal": ({"spd_k": 0}, ["spd_k", "0"]),
    "negative proposal": ({"spd_k": -1}, ["spd_k", "-1"]),
    "no batch": ({"batch_size": 0}, ["batch_size", "0"]),
    "negative batch": ({"batch_size": "-4"}, ["batch_size", "-4"]),
    "batch in words": ({"batch_size": "large"}, ["batch_size", "large", "auto"]),
    "no bound": ({"max_batch_size": 0}, ["max_batch_size", "0"]),
    "bound in words": ({"max_batch_size": "auto"}, ["max_batch_size", "auto"]),
    "ranks that measure": (
        {"batch_size": "auto:2", "tp_plan": "auto"},
        ["batch_size", "auto:2", "tp_plan"],
    ),
    "missing target": ({"target_model_path": "./nowhere"}, ["target_model_path", "nowhere"]),
    "missing draft": ({"pretrained": "/no/such/model"}, ["draft_model_path", "/no/such/model"]),
    "missing nested": ({"target_model_path": "a/b/c"}, ["target_model_path", "a/b/c"]),
    "two drafts": ({"pretrained": "a/b", "draft_model_path": "c/d"}, ["a/b", "c/d"]),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(pair, arguments, words):
    with pytest.raises(ConfigError) as caught:
        ModelArguments.split({"config_path": str(pair.config), **arguments})
    assert all(word in str(caught.value) for word in words)
    assert caught.value.fix


def test_seq2seq_backend_is_refused(pair):
    with pytest.raises(ModelError, match="seq2seq"):
        ModelArguments.split({"config_path": str(pair.config), "backend": "seq2seq"})


def test_missing_configuration_file():
    with pytest.raises(ConfigError, match=r"no\.json"):
        ModelArguments.split({"config_path": "no.json"})


def test_malformed_configuration_file(tmp_path):
    file = tmp_path / "broken.json"
    file.write_text('{"spd_k": 4,}')
    with pytest.raises(ConfigError, match=r"broken\.json"):
        ModelArguments.split({"config_path": str(file)})


def test_models_must_be_named(pair):
    with pytest.raises(ConfigError, match="target_model_path"):
        ModelArguments.split({"pretrained": str(pair.draft)})
    with pytest.raises(ConfigError, match="draft_model_path"):
        ModelArguments.split({"target_model_path": str(pair.target)})


@pytest.mark.parametrize(
    "settings", [{"use_sd": False}, {"drafter": "ngram", "acceptance": "native"}]
)
def test_no_draft_is_asked_for_where_none_drafts(pair, settings):
    split = ModelArguments.split({"target_model_path": str(pair.target), **settings})
    assert not split.config.setup.traits.needs_model


BATCH_SIZES = {  # as given, as HFLM gets it
    "number": ({"batch_size": 4}, {"batch_size": 4}),
    "text": (
        {"batch_size": "4", "max_batch_size": "32"},
        {"batch_size": 4, "max_batch_size": 32},
    ),
    "search": ({"batch_size": "auto:4"}, {"batch_size": "auto:4"}),
    "not given": ({"batch_size": None, "max_batch_size": None}, {}),
    "one for all ranks": ({"batch_size": "4", "tp_plan": "x"}, {"batch_size": 4, "tp_plan": "x"}),
    "no ranks": ({"batch_size": "auto", "tp_plan": None}, {"batch_size": "auto", "tp_plan": None}),
}


@pytest.mark.parametrize(("given", "expected"), BATCH_SIZES.values(), ids=BATCH_SIZES)
def test_batch_sizes(pair, given, expected):
    assert ModelArguments.split({"config_path": str(pair.config)} | given).target == expected
