"""Methods by name: what each stands for, and what is refused before anything is loaded."""

import warnings

import pytest
from lm_eval.tasks import TaskManager

from fly.acceptance import rules
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig, json_schema
from fly.drafting import drafters
from fly.drafting.none import NoDrafter
from fly.errors import ConfigError, FLyWarning
from fly.harness.tracing import rule_entry
from fly.workbench.methods import Method, parse_method, parse_methods
from fly.workbench.notes import copying_notes
from fly.workbench.options import Options, make_plan


def config(**settings):
    return FLyConfig(
        **{"target_model_path": "target", "draft_model_path": "draft", "spd_k": 9, **settings}
    )


def method(name, **settings):
    return parse_method(name, config(**settings), 16)


class Mine(NativeRule):
    """A rule that decides like the native one and says that it looks four tokens ahead."""

    @property
    def is_lossless(self):
        return False

    @property
    def required_followers(self):
        return 4


# name: kind, drafter, rule, needs a draft, plain, lossless
NAMES = {
    "target": ("OwnEngine", "none", None, False, True, True),
    "draft": ("DraftEngine", "none", None, True, False, False),
    "hf_generate": ("GenerateEngine", "none", None, False, False, True),
    "hf_assisted": ("AssistedEngine", "none", None, True, False, True),
    "hf_prompt_lookup": ("PromptLookupEngine", "none", None, False, False, True),
    "native": ("OwnEngine", "model", "native", True, False, True),
    "fly": ("OwnEngine", "model", "fly", True, False, False),
    "model": ("OwnEngine", "model", "fly", True, False, False),
    "ngram": ("OwnEngine", "ngram", "native", False, False, True),
    "suffix+margin:ratio=0.5": ("OwnEngine", "suffix", "native", False, False, True),
    "fly:drafter=retrieval": ("OwnEngine", "retrieval", "native", False, False, True),
    "multilevel": ("OwnEngine", "multilevel", "fly", True, False, False),
    "none": ("OwnEngine", "none", None, False, True, True),
    "ngram+native": ("OwnEngine", "ngram", "native", False, False, True),
    "native+ngram": ("OwnEngine", "ngram", "native", False, False, True),
    "fly+multilevel": ("OwnEngine", "multilevel", "fly", True, False, False),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_what_a_name_stands_for(name, expected):
    found = method(name)
    rule = None if found.config.drafter_name == "none" else found.config.setup.rule_name
    assert (
        *(found.engine.__name__, found.config.drafter_name, rule),
        *(found.needs_draft, found.is_plain, found.is_lossless),
    ) == expected


def test_every_entry_of_the_registries_is_a_method():
    for name in [*rules.names(), *drafters.names()]:
        is_sampled = name in rules and rules.get(name).temperatures == "sampled"
        found = method(name, temperature=1.0 if is_sampled else 0.0)
        assert name in (found.config.setup.rule_name, found.config.drafter_name)


def test_the_configuration_holds_where_the_name_says_nothing():
    found = method("fly", win_len=3, entropy_thre=0.5)
    assert (found.config.spd_k, found.config.win_len, found.batch_size) == (9, 3, 16)
    assert method("native", use_ngram=True).config.drafter_name == "multilevel"
    assert method("ngram", enable_fly=False).config.setup.rule_name == "native"
    assert method("ngram", use_ngram=True).config.drafter_name == "ngram"
    assert method("native", use_sd=False).config.drafter_name == "model"


def test_a_rule_drafts_even_where_the_configuration_does_not():
    assert method("native", drafter="none").config.drafter_name == "model"
    assert method("none", use_sd=True).is_plain


def test_the_ablation_is_of_fly_alone():
    assert method("fly", abla_no_window=True).config.abla_no_window
    assert not method("native", abla_no_window=True).config.abla_no_window
    assert method("native", abla_no_window=True).is_lossless


def test_settings_behind_a_colon():
    found = method("fly:win_len=4,entropy_thre=0.1,batch_size=32")
    assert (found.config.win_len, found.config.setup.fly_rule.threshold) == (4, 0.1)
    assert (found.batch_size, found.name) == (32, "fly:win_len=4,entropy_thre=0.1,batch_size=32")
    assert found.settings == {
        **{"drafter": "model", "acceptance": "fly", "spd_k": 9, "win_len": 4},
        **{"fly_variant": "official", "entropy": "top3", "gate": 0.1},
    }


def test_settings_are_told():
    assert method("target").settings == {"drafter": "none"}
    assert method("ngram+native").settings == {
        **{"drafter": "ngram", "acceptance": "native", "spd_k": 9, "draft_length": "adaptive"}
    }
    assert method("hf_prompt_lookup").settings == {"prompt_lookup_num_tokens": 10}


def test_what_transformers_decodes_one_by_one():
    sizes = [method(name).batch_size for name in ("hf_generate", "hf_assisted", "hf_prompt_lookup")]
    assert sizes == [16, 1, 1]
    assert method("hf_generate:batch_size=4").batch_size == 4


def test_another_batch_size_is_in_the_name():
    assert method("target").at(8).name == "target:batch_size=8"
    other = method("fly:win_len=4").at(8)
    assert (other.name, other.batch_size) == ("fly:win_len=4,batch_size=8", 8)


@pytest.mark.parametrize(
    "specs",
    [
        ["native,fly:win_len=4,entropy_thre=0.1,ngram+native"],
        ["native", "fly:win_len=4,entropy_thre=0.1", "ngram+native"],
        [" native , fly:win_len=4, entropy_thre=0.1 ", "ngram+native", ""],
    ],
)
def test_commas_stand_between_methods_and_between_settings(specs):
    found = [each.name for each in parse_methods(specs, config(), 16)]
    assert found == ["target", "native", "fly:win_len=4,entropy_thre=0.1", "ngram+native"]


def test_the_target_is_always_the_first():
    assert [each.name for each in parse_methods([], config(), 4)] == ["target"]
    found = parse_methods(["fly,target,native"], config(), 4)
    assert [each.name for each in found] == ["target", "fly", "native"]


# --- copies, which no rule loosens

STAND_INS = {  # as named, as counted
    "ngram": "ngram+native",
    "ngram+fly": "ngram+native",
    "fly+ngram": "ngram+native",
    "ngram:spd_k=4,win_len=2": "ngram+native:spd_k=4",
    "suffix+margin:ratio=0.5,min_match=3,batch_size=4": ("suffix+native:min_match=3,batch_size=4"),
    "ngram:acceptance=typical,epsilon=0.2": "ngram+native",
    "fly:drafter=suffix": "native:drafter=suffix",
}


@pytest.mark.parametrize(("name", "counted"), STAND_INS.items())
def test_copies_count_as_native(name, counted):
    found, native = method(name), method(counted)
    assert (found.name, found.stands_for) == (counted, (name,))
    assert (found.config, found.batch_size) == (native.config, native.batch_size)
    assert found.settings == native.settings
    assert found.is_lossless
    assert not found.is_candidate
    assert found.settings["acceptance"] == "native"


def test_what_comes_to_the_same_is_decoded_once_and_said_once():
    names = ["ngram:win_len=4", "ngram+native", "fly", "ngram+margin"]
    with pytest.warns(FLyWarning, match=r"ngram:win_len=4, ngram\+margin: counted as") as caught:
        methods = parse_methods(names, config(), 16)
    assert len(caught) == 1
    assert [each.name for each in methods] == ["target", "ngram+native", "fly"]
    assert [each.stands_for for each in methods] == [(), ("ngram:win_len=4", "ngram+margin"), ()]
    [note] = copying_notes(methods)
    assert note == str(caught[0].message).removeprefix("--methods ")


def test_a_configuration_whose_drafter_copies_has_said_so():
    with pytest.warns(FLyWarning, match="has no effect") as caught:
        copying = config(drafter="ngram", acceptance="margin", acceptance_settings={"ratio": 0.5})
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods = parse_methods(["native", "margin", "fly", "model+margin"], copying, 16)
    asked = {"tasks": [], "task_manager": TaskManager(include_defaults=False)}
    with pytest.warns(FLyWarning, match="has no effect") as caught:
        plan = make_plan(
            Options(model_args={"config_path": "demo", "drafter": "suffix"}, harness=asked)
        )
    assert len(caught) == 1
    assert [each.name for each in methods] == ["target", "native", "model+margin"]
    assert methods[1].stands_for == ("margin", "fly")
    assert methods[2].config.acceptance_settings == {"ratio": 0.5}
    assert [each.name for each in plan.methods] == ["target", "native"]
    told = Method("point", copying, 1).settings
    own = {"drafter": "ngram", "acceptance": "native", "spd_k": 9, "draft_length": "adaptive"}
    assert told == own


def test_copies_that_are_loosened_are_a_method_of_their_own():
    with pytest.warns(FLyWarning, match="loosen_copied is true"):
        methods = parse_methods(["ngram:loosen_copied=true,ngram+native"], config(), 16)
    assert [each.is_candidate for each in methods] == [False, True, False]
    [note] = copying_notes(methods)
    assert note.startswith("ngram:loosen_copied=true: loosen_copied is true")
    with pytest.warns(FLyWarning, match="--methods ngram: loosen_copied is true"):
        method("ngram", loosen_copied=True)


# --- what is registered later


@pytest.mark.usefixtures("registries")
def test_a_rule_of_ones_own_is_a_method():
    rules.register("mine")(Mine)
    found = method("mine:spd_k=8")
    assert (found.config.setup.rule_name, found.config.spd_k) == ("mine", 8)
    assert (found.needs_draft, found.is_plain) == (True, False)
    assert not found.is_lossless, "nobody but its author knows what it keeps"
    assert found.settings == {"drafter": "model", "acceptance": "mine", "spd_k": 8}
    assert rule_entry(found.config.setup)["window"] == 3
    assert method("multilevel+mine").config.drafter_name == "multilevel"
    assert method("ngram+mine:spd_k=8").name == "ngram+native:spd_k=8"
    assert method("mine", abla_no_window=True).config.setup.rule_name == "mine"
    assert found.config.fingerprint() != method("fly:spd_k=8").config.fingerprint()


@pytest.mark.usefixtures("registries")
def test_a_drafter_of_ones_own_is_a_method():
    drafters.register("own")(NoDrafter)
    found = method("own+native")
    assert (found.config.drafter_name, found.needs_draft) == ("own", False)


@pytest.mark.usefixtures("registries")
def test_the_schema_and_the_messages_list_what_is_registered():
    rules.register("mine")(Mine)
    drafters.register("own")(NoDrafter)
    properties = json_schema()["properties"]
    names = properties["acceptance"]["anyOf"][0]["enum"]
    assert (names[:2], names[-1]) == (["native", "fly"], "mine")
    assert "own" in properties["drafter"]["anyOf"][0]["enum"]
    with pytest.raises(ConfigError, match=r"or 'mine' or null; did you mean 'mi"):
        FLyConfig(acceptance="mina")


@pytest.mark.usefixtures("registries")
def test_only_fly_has_a_window_to_leave_out_and_to_be_too_short():
    rules.register("mine")(Mine)
    with pytest.raises(ConfigError, match="acceptance is 'mine', and it is FLy's window"):
        FLyConfig(acceptance="mine", abla_no_window=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FLyConfig(acceptance="mine", spd_k=2, win_len=6)


def test_the_window_that_is_inspected():
    assert rule_entry(method("fly:win_len=4").config.setup)["window"] == 3
    assert rule_entry(method("fly:win_len=4,fly_variant=paper").config.setup)["window"] == 4
    assert rule_entry(method("fly", abla_no_window=True).config.setup)["window"] == 0
    assert [
        rule_entry(method(name).config.setup)["window"]
        for name in ("target", "native", "hf_generate")
    ] == [0, 0, 0]


# --- what is refused

WRONG = {
    "unknown": ("natve", "unknown method 'natve'; did you mean 'native'?"),
    "unknown special": ("hf_genrate", "unknown method 'hf_genrate'; did you mean 'hf_generate'?"),
    "unknown part": ("n-gram+fly", "unknown method 'n-gram'; did you mean 'ngram'?"),
    "half a pair": ("ngram+", "unknown method ''"),
    "special in a pair": ("ngram+target", "unknown method 'target'"),
    "two rules": ("fly+native", "names two rules"),
    "two drafters": ("ngram+model", "names two drafters"),
    "setting": ("fly:winlen=4", "unknown key 'winlen'; did you mean 'win_len'?"),
    "value": ("fly:win_len=many", "win_len is 'many', but it must be a whole number of at least 1"),
    "choice": ("fly:fly_variant=papr", "did you mean 'paper'?"),
    "no value": ("fly:win_len", "'win_len' is no setting"),
    "empty value": ("fly:win_len=", "'win_len=' is no setting"),
    "setting twice": ("fly:win_len=4,win_len=5", "gives 'win_len' twice"),
    "setting without method": ("fly,win_len=4", "unknown method 'win_len=4'"),
    "setting of the target": ("target:win_len=4", "has no setting 'win_len'"),
    "setting of another's": ("hf_generate:spd_k=4", "has no setting 'spd_k'"),
    "batch of one": ("hf_assisted:batch_size=4", "has no setting 'batch_size'"),
    "batch auto": ("fly:batch_size=auto", "batch_size is 'auto', which would differ"),
    "batch zero": ("fly:batch_size=0", "batch_size"),
    "model": ("fly:draft_model_path=other", "draft_model_path is the same for all methods"),
    "compiled": ("fly:compile=on", "compile is the same for all methods"),
    "temperature": ("fly:temperature=1", "temperature is the same for all methods"),
    "impossible": ("ngram:tree_verify=true", "which means 'tree'"),
    "method twice": ("fly,native,fly", "names 'fly' twice"),
}


@pytest.mark.parametrize(("spec", "message"), WRONG.values(), ids=WRONG)
def test_wrong_names(spec, message):
    with pytest.raises(ConfigError) as caught:
        parse_methods([spec], config(), 16)
    assert message in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize("name", ["fly", "native", "multilevel", "draft", "hf_assisted"])
def test_a_draft_has_to_be_named(name):
    with pytest.raises(ConfigError, match=f"--methods {name}: needs a draft model, and none"):
        parse_methods([name], config(draft_model_path=None), 16)


def test_no_draft_is_needed_where_nobody_asks_for_it():
    names = ["ngram+native,hf_generate,hf_prompt_lookup,none"]
    assert len(parse_methods(names, config(draft_model_path=None), 16)) == 5


def test_a_window_that_is_too_long_is_said_where_it_is_named():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method("native:spd_k=4")
    with pytest.warns(FLyWarning, match="--methods fly:spd_k=4"):
        method("fly:spd_k=4")


PLANS = {
    "margin": ({"margin": 1.0}, "--margin is 1.0"),
    "batch": ({"batch_size": "auto"}, "--batch_size is 'auto'"),
    "resume": ({"resume": True}, "--resume needs the folder"),
    "method": ({"methods": ["nativ"]}, "did you mean 'native'?"),
}


@pytest.mark.parametrize(("wrong", "message"), PLANS.values(), ids=PLANS)
def test_a_wrong_plan_loads_nothing(wrong, message, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    given = {"model_args": {"config_path": "demo"}, "harness": {"tasks": ["fly_demo_math"]}}
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_plan(Options(**given, **wrong))


# --- lengths that are pinned


@pytest.mark.parametrize(
    ("name", "length", "is_pinned"),
    [
        ("ngram+native", "adaptive", False),
        ("ngram+native:spd_k=5", "fixed", True),
        ("ngram+native:spd_k=5,draft_length=adaptive", "adaptive", False),
        ("ngram+native:draft_length=fixed", "fixed", False),
        ("native:spd_k=5", "fixed", False),
        ("none:spd_k=5", "fixed", False),
    ],
)
def test_a_name_that_gives_a_length_pins_it(name, length, is_pinned):
    found = method(name)
    assert (found.config.setup.draft_length, found.pins_length) == (length, is_pinned)
    assert found.settings.get("draft_length", "fixed") == length


def test_a_configuration_that_says_adaptive_is_not_overruled():
    found = method("ngram+native:spd_k=5", draft_length="adaptive")
    assert (found.config.setup.draft_length, found.pins_length) == ("adaptive", False)
