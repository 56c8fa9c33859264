"""The resolved setup: other rules and drafters in it, and what makes two of them the same."""

import pytest

from fly.config import FLyConfig, drafter_keys, rule_keys
from fly.drafting.settings import ResolvedNgram
from fly.errors import ConfigError, FLyWarning


def test_another_drafter_is_as_if_only_that_had_been_named():
    begun = FLyConfig(use_ngram=True, max_ngram_size=3, acceptance="native").setup
    other = begun.with_drafter("ngram", {"match": "latest"}, k=4)
    named = FLyConfig(
        drafter="ngram", drafter_settings={"match": "latest"}, spd_k=4, max_ngram_size=3,
        acceptance="native",
    ).setup  # fmt: skip
    assert other == named
    assert other.drafter.settings == ResolvedNgram(match="latest", max_ngram=3)
    assert other.traits.copies_context
    with pytest.raises(ConfigError, match="unknown drafter 'ngrm'; did you mean 'ngram'"):
        begun.with_drafter("ngrm")
    with pytest.raises(ConfigError, match="unknown setting 'mach'"):
        begun.with_drafter("ngram", {"mach": "latest"})


def test_another_rule():
    begun = FLyConfig(win_len=4).setup
    other = begun.with_rule("margin", {"ratio": 0.5})
    assert (
        other == FLyConfig(win_len=4, acceptance="margin", acceptance_settings={"ratio": 0.5}).setup
    )
    assert other.with_rule("fly") == begun.with_rule("fly")
    with pytest.raises(ConfigError, match="unknown acceptance rule 'magin'"):
        begun.with_rule("magin")


@pytest.mark.parametrize("name", ["none", "model", "tree", "multilevel", "ngram", "bandit"])
@pytest.mark.parametrize("flag", ["use_ngram", "tree_verify", "dual_tok"])
def test_keys_that_name_a_drafter_win_over_every_other_way_to_name_one(name, flag):
    config = FLyConfig(**{flag: True}, acceptance="native")
    assert config.changed(**drafter_keys(name)).setup.drafter.name == name


@pytest.mark.parametrize("name", ["native", "fly", "margin", "lenience"])
def test_keys_that_name_a_rule_win_over_every_other_way_to_name_one(name):
    config = FLyConfig(abla_no_window=True)
    assert config.changed(**rule_keys(name)).setup.rule_name == name


SAME = {  # two spellings of one setup
    "the drafter by flag": ({"use_ngram": True}, {"drafter": "multilevel"}),
    "the rule by flag": ({"enable_fly": False}, {"acceptance": "native"}),
    "the rule's keys where it is native": (
        {"acceptance": "native", "win_len": 3}, {"acceptance": "native"},
    ),
    "a drafter's keys where it does not read them": ({"branch_n": 3}, {}),
    "the threshold that is the default": ({"entropy_thre": 0.3}, {}),
    "no drafter": ({"use_sd": False}, {"drafter": "none", "spd_k": 3}),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_two_spellings_have_one_fingerprint(one, other):
    assert FLyConfig(**one).fingerprint() == FLyConfig(**other).fingerprint()


@pytest.mark.parametrize(
    "settings",
    [
        {"win_len": 4}, {"entropy_thre": 0.2}, {"fly_variant": "paper"}, {"spd_k": 9},
        {"strict_first_n": 3}, {"use_ngram": True}, {"tree_verify": True}, {"temperature": 0.5},
        {"draft_model_path": "draft"}, {"total_gen_tok": 9}, {"draft_length": "adaptive"},
    ],
)  # fmt: skip
def test_what_changes_the_text_changes_the_fingerprint(settings):
    assert FLyConfig(**settings).fingerprint() != FLyConfig().fingerprint()


def test_an_arm_of_a_bandit_reads_the_official_keys():
    def bandit(**keys):
        arms = {"arms": [{"drafter": "ngram"}, {"drafter": "model", "k": 4}]}
        return FLyConfig(drafter="bandit", acceptance="native", drafter_settings=arms, **keys)

    specs = bandit(max_ngram_size=2).setup.drafter.settings.specs
    assert [(spec.name, spec.k) for spec in specs] == [("ngram", 15), ("model", 4)]
    assert specs[0].settings.max_ngram == 2
    assert bandit().fingerprint() == bandit(spd_k=15).fingerprint()
    assert bandit().fingerprint() != bandit(max_ngram_size=2).fingerprint()
    assert bandit().fingerprint() == bandit(branch_n=2).fingerprint()


def test_a_copy_means_what_its_own_settings_mean():
    config = FLyConfig(enable_statistics=True, acceptance="native")
    copied = config.model_copy(update={"enable_statistics": False, "drafter": "ngram"})
    assert not copied.setup.counts_official
    assert copied.setup == FLyConfig(acceptance="native", drafter="ngram").setup


def test_what_settings_warn_of_is_said_once():
    with pytest.warns(FLyWarning, match="exp3 is no more") as said:
        FLyConfig(drafter="bandit", acceptance="native", drafter_settings={"policy": "exp3"})
    assert len(said) == 1
