"""Settings that rules and drafters bring along: where they are read from, what is refused, and what
makes two configurations the same."""

from typing import ClassVar

import pytest
from pydantic import BaseModel, Field

from fly.acceptance import rules
from fly.acceptance.loose import LooseRule
from fly.config import FLyConfig
from fly.config.loading import settings_models
from fly.config.setup import misfit_of
from fly.drafting import drafters
from fly.drafting.ngram import NgramDrafter
from fly.errors import ConfigError, FLyWarning
from fly.settings import STRICT, Traits
from fly.workbench.methods import parse_method


class PickSettings(BaseModel):
    """Of the drafter below."""

    model_config = STRICT
    depth: int = Field(3, ge=1, description="Levels.")
    spread: float = Field(0.5, ge=0, description="Width.")


@pytest.fixture(autouse=True)
def _registered(registries):
    """Rules and a drafter with settings, for the length of a test."""

    @rules.register("gauge")
    class GaugeRule(LooseRule):
        """Three kinds of settings."""

        ratio: float = Field(0.7, gt=0, le=1, description="Ratio.")
        top: int | None = Field(None, ge=1, description="Ranks.")
        is_strict: bool = Field(False, description="Strict.")

    @rules.register("distance")
    class DistanceRule(LooseRule):
        """Compares distributions."""

        needs_draft_probs: ClassVar = True
        least: float = Field(0.1, ge=0, description="Least.")

    @drafters.register("pick")
    class PickDrafter(NgramDrafter):
        """A drafter with settings; greedy requests only."""

        @classmethod
        def settings_model(cls):
            """As above."""
            return PickSettings

        @classmethod
        def traits(cls, config):
            """Greedy."""
            return Traits(temperatures="greedy")


def gauge(**settings):
    return FLyConfig(acceptance="gauge", drafter="model", acceptance_settings=settings)


REFUSED = {  # settings of the rule, what is said
    "unknown": ({"ratoi": 0.5}, "unknown setting 'ratoi'; did you mean 'ratio'?"),
    "text for a number": ({"ratio": "0.5"}, "ratio is '0.5'"),
    "number for a boolean": ({"is_strict": 1}, "is_strict is 1"),
    "float for an integer": ({"top": 2.5}, "top is 2.5"),
    "out of range": ({"ratio": 1.5}, "ratio is 1.5"),
}


@pytest.mark.parametrize(("settings", "said"), REFUSED.values(), ids=REFUSED)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ConfigError) as caught:
        gauge(**settings)
    assert said in str(caught.value)
    assert str(caught.value).startswith("FLyConfig: acceptance_settings of acceptance rule 'gauge'")


def test_a_drafters_settings_are_refused_in_its_name():
    with pytest.raises(ConfigError, match=r"drafter_settings of drafter 'pick'.*depht") as caught:
        FLyConfig(drafter="pick", acceptance="native", drafter_settings={"depht": 2})
    assert "did you mean 'depth'" in str(caught.value)


@pytest.mark.parametrize("rule", ["native", "fly"])
def test_rules_without_settings_take_none(rule):
    with pytest.raises(ConfigError, match=f"acceptance_settings of acceptance rule '{rule}'"):
        FLyConfig(acceptance=rule, drafter="ngram", acceptance_settings={"ratio": 0.5})


def test_overrides_as_texts_become_the_rules_and_the_drafters():
    config = FLyConfig.load(
        None,
        {
            "acceptance": "gauge", "drafter": "pick", "ratio": "0.5", "top": "4",
            "is_strict": "true", "depth": "2", "spread": "1", "spd_k": "9",
        },
    )  # fmt: skip
    assert config.acceptance_settings == {"ratio": 0.5, "top": 4, "is_strict": True}
    assert config.drafter_settings == {"depth": 2, "spread": 1.0}
    assert config.spd_k == 9
    again = FLyConfig.load(None, config.to_dict() | {"top": "none"})
    assert again.acceptance_settings == {"ratio": 0.5, "top": None, "is_strict": True}


def test_overrides_win_over_a_files_settings_and_keep_the_others(tmp_path):
    file = tmp_path / "gauge.json"
    file.write_text(
        '{"acceptance": "gauge", "drafter": "model",'
        ' "acceptance_settings": {"ratio": 0.9, "top": 3}}'
    )
    assert FLyConfig.load(file).acceptance_settings == {"ratio": 0.9, "top": 3}
    config = FLyConfig.load(file, {"ratio": "0.4"})
    assert config.acceptance_settings == {"ratio": 0.4, "top": 3}
    with pytest.raises(ConfigError, match="unknown key 'rati'"):
        FLyConfig.load(file, {"rati": "0.4"})
    with pytest.raises(ConfigError, match="ratio is 'much'"):
        FLyConfig.load(file, {"ratio": "much"})
    with pytest.raises(ConfigError, match="unknown key 'ratio'"):
        FLyConfig.load(file, {"ratio": "0.4", "acceptance": "native", "acceptance_settings": {}})


def test_settings_in_a_methods_name():
    base = gauge(ratio=0.9, top=3)
    own = parse_method("gauge:ratio=0.5", base, 1)
    assert own.config.acceptance_settings == {"ratio": 0.5, "top": 3}
    assert parse_method("gauge", base, 1).config == base
    with pytest.raises(ConfigError, match=r"--methods gauge:ratoi=0\.5: unknown key 'ratoi'"):
        parse_method("gauge:ratoi=0.5", base, 1)


@pytest.mark.parametrize("name", ["native", "fly", "ngram+native", "target", "lenience"])
def test_another_rule_drops_the_settings_of_the_configurations_own(name):
    found = parse_method(name, gauge(ratio=0.9), 1)
    assert found.config.acceptance_settings == {}
    assert "acceptance_settings" not in found.settings


def test_another_drafter_drops_the_settings_of_the_configurations_own():
    config = FLyConfig(drafter="pick", acceptance="native", drafter_settings={"depth": 2})
    assert parse_method("ngram+native", config, 1).config.drafter_settings == {}
    assert parse_method("native", config, 1).config.drafter_settings == {"depth": 2}
    assert parse_method("pick:depth=5", config, 1).config.drafter_settings == {"depth": 5}


def test_a_rule_on_distributions_wants_a_draft_that_has_some():
    with pytest.raises(ConfigError, match="'distance' compares the distributions") as caught:
        FLyConfig(acceptance="distance", drafter="ngram")
    assert "draft with 'model'" in caught.value.fix
    assert FLyConfig(acceptance="distance", drafter="model").setup.is_loose
    assert not FLyConfig(acceptance="distance", use_sd=False).setup.is_loose


def test_temperatures():
    with pytest.raises(ConfigError, match="'ears', which decides where tokens are drawn") as caught:
        FLyConfig(acceptance="ears", drafter="ngram")
    assert caught.value.fix == "set temperature to another value, or choose another acceptance"
    with pytest.raises(ConfigError, match="drafter is 'pick', which decodes greedily, but"):
        FLyConfig(acceptance="native", drafter="pick", temperature=0.5)
    config = FLyConfig(acceptance="ears", drafter="model", temperature=0.5)
    assert config.setup.misfit_at(0.9) is None
    assert config.setup.misfit_at(0.0)[0] == "acceptance"
    plain = FLyConfig(acceptance="ears", use_sd=False)
    assert plain.setup.misfit_at(0.0) is None
    assert [misfit_of("any", t) for t in (0.0, 1.0)] == ["", ""]
    assert not misfit_of("greedy", 0.0)
    assert not misfit_of("sampled", 0.1)


def test_settings_models_of_names_that_nobody_knows():
    assert settings_models("nobody", 7) == {}
    assert set(settings_models("gauge", "pick")) == {"acceptance_settings", "drafter_settings"}


def test_equal_settings_are_one_configuration():
    one, same, other = gauge(ratio=0.5), gauge(ratio=0.5), gauge(ratio=0.6)
    assert one == same
    assert hash(one) == hash(same)
    assert one.fingerprint() == same.fingerprint()
    assert one != other
    assert one.fingerprint() != other.fingerprint()
    assert len({one, same, other}) == 2
    texts = FLyConfig.load(None, {"acceptance": "gauge", "drafter": "model", "ratio": "0.5"})
    assert texts == one


def test_fingerprints_tell_drafters_settings_apart():
    def pick(depth):
        return FLyConfig(drafter="pick", acceptance="native", drafter_settings={"depth": depth})

    assert pick(2).fingerprint() != pick(3).fingerprint()
    assert pick(2).fingerprint() == pick(2).fingerprint()


def test_lossless_by_its_settings():
    def lenience(value):
        settings = {"lenience": value}
        return FLyConfig(acceptance="lenience", acceptance_settings=settings)

    assert not lenience(1.0).setup.is_loose
    assert lenience(0.9).setup.is_loose


def test_own_settings_as_text_where_a_flag_names_the_drafter():
    config = FLyConfig.load(None, {"dual_tok": "true", "method": "reencode"})
    assert (config.drafter_name, config.drafter_settings) == (
        "other_tokenizer",
        {"method": "reencode"},
    )


@pytest.mark.parametrize("drafter", ["tree", "retrieval", "bandit"])
def test_adaptive_lengths_are_for_drafters_that_are_told_a_length(drafter):
    with pytest.raises(ConfigError, match="settles itself how much it offers"):
        FLyConfig(drafter=drafter, draft_length="adaptive")


LENGTHS = {  # drafter, rule: how long proposals are where nothing is said
    ("ngram", "native"): "adaptive",
    ("suffix", "native"): "adaptive",
    ("self", "native"): "adaptive",
    ("self", "fly"): "fixed",  # its text must not depend on the clock
    ("self", "margin"): "fixed",
    ("model", "native"): "fixed",
    ("model", "fly"): "fixed",
    ("multilevel", "native"): "fixed",
    ("tree", "native"): "fixed",
    ("other_tokenizer", "native"): "fixed",
    ("retrieval", "native"): "fixed",
    ("bandit", "native"): "fixed",
    ("none", "native"): "fixed",
}


@pytest.mark.parametrize(("names", "length"), LENGTHS.items())
def test_a_length_that_is_left_open_is_adaptive_where_that_never_changes_text(names, length):
    drafter, rule = names
    config = FLyConfig(drafter=drafter, acceptance=rule)
    assert config.draft_length is None
    assert config.setup.draft_length == length
    given = FLyConfig(drafter=drafter, acceptance=rule, draft_length="fixed")
    assert given.setup.draft_length == "fixed"
    named = FLyConfig(drafter=drafter, acceptance=rule, draft_length=length)
    # Named, it follows the clock of sampled rows, too; left open it does not.
    is_same = config.fingerprint() == named.fingerprint()
    assert is_same is (length == "fixed")


def test_a_loose_copying_drafter_has_no_adaptive_length_by_default():
    """Where its rule loosens, that is."""
    with pytest.warns(FLyWarning, match="has no effect"):
        config = FLyConfig(drafter="suffix", acceptance="fly")
    assert config.setup.draft_length == "adaptive"
    with pytest.warns(FLyWarning, match="loosen_copied is true"):
        config = FLyConfig(drafter="suffix", acceptance="fly", loosen_copied=True)
    assert config.setup.draft_length == "fixed"


def test_a_given_length_is_obeyed():
    assert FLyConfig(draft_length="adaptive").setup.draft_length == "adaptive"
    assert FLyConfig.load(None, {"draft_length": "none"}).draft_length is None


@pytest.mark.parametrize("name", drafters.names())
def test_drafters_that_settle_their_own_lengths_do_not_adapt(name):
    traits = FLyConfig(drafter=name, acceptance="native").setup.traits
    assert not (traits.adapts and (traits.is_tree or traits.is_timed or traits.needs_model))
