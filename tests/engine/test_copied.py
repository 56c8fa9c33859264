"""A proposal that copies the context is judged natively under every loose rule, whether all that a
drafter offers is copied or single proposals are."""

from dataclasses import replace

import pytest
import torch

from fly.acceptance import rules
from fly.config import FLyConfig
from fly.drafting import Proposal, drafters
from fly.drafting.adaptive.bandit import BanditDrafter
from fly.drafting.chain import ModelDrafter
from fly.drafting.retrieval.retrieval import RetrievalDrafter
from fly.drafting.tree import TreeDrafter
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.errors import ConfigError
from fly.settings import Traits
from fly.workbench.sweeps.shared import SharedDecoding
from tests.acceptance.rescoring import LOOSE, base, config_of, requests, temperature_of
from tests.crossing import mostly_slow
from tests.models import Bytes, Tape, blurred, ids_of, tiny, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # said in test_config
SETTINGS = {  # of FLyConfig, with which small random models are loosened often
    "no window": {"acceptance": "fly", "abla_no_window": True, "entropy_thre": 0.2},
    **{
        f"{name} {number}": {"acceptance": name, **given}
        for name in rules
        for number, given in enumerate(LOOSE.get(name, [{}]))
    },
}


def config(drafter, settings, **more):
    temperature = temperature_of(settings["acceptance"])
    # Of a length that follows the clock, rounds differ from run to run.
    own = {"drafter": drafter, "temperature": temperature, "draft_length": "fixed"}
    return FLyConfig(**own | settings | more)


LOSSY = {name: each for name, each in SETTINGS.items() if config("model", each).setup.is_loose}


def pooled(results):
    return sum((result.statistics for result in results), Statistics())


# --- a drafter that copies whatever it offers

ANSWER = "abXcdefghij klXmnopqrst"
PROMPT = "_ab.cdefghij kl.mnopqrst|"


def unsure():
    """A target that goes on with a phrase of the prompt, but for a letter that it holds as likely
    as the prompt's."""
    return Tape(PROMPT[1:] + ANSWER, range(len(PROMPT) - 1, 60))


def copied(drafter, settings, seed=0, **more):
    """The answer to the prompt, which holds nearly the same phrases."""
    own = config(drafter, {"spd_k": 12, **settings}, **more)
    decoder = SpeculativeDecoder(unsure(), None, Bytes(), own, batch_size=1)
    asked = Request(tuple(ids_of(PROMPT)), len(ANSWER), temperature=own.temperature, seed=seed)
    [(_, result)] = decoder.decode([asked])
    return decoder, result


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("drafter", mostly_slow(["ngram", "suffix"]))
def test_copies_are_judged_natively_by_every_rule(drafter, name):
    settings = LOSSY[name]
    if rules.get(settings["acceptance"]).needs_draft_probs:
        with pytest.raises(ConfigError, match="has none to give"):
            config(drafter, settings)
        return
    for temperature in {temperature_of(settings["acceptance"]), 1.0}:
        for seed in range(6 if temperature else 1):
            more = {"seed": seed, "temperature": temperature}
            decoder, result = copied(drafter, settings, **more)
            _, native = copied(drafter, {"acceptance": "native"}, **more)
            assert decoder.is_lossless
            assert result.token_ids == native.token_ids
            assert result.origins == native.origins
            assert temperature or result.text == ANSWER


@pytest.mark.parametrize("name", LOSSY)
def test_loosen_copied_loosens_them(name):
    settings = {**LOSSY[name], "loosen_copied": True}
    if rules.get(settings["acceptance"]).needs_draft_probs:
        return
    found = [copied("ngram", settings, seed=seed) for seed in range(20)]
    assert pooled([result for _, result in found]).loose > 0
    assert not found[0][0].is_lossless
    if config("ngram", settings).temperature == 0:
        assert "ab.c" in found[0][1].text


def test_trees_of_copies_too():
    """With the window off, or random texts would hardly be loosened."""
    target = tiny("llama")
    settings = {"acceptance": "cascade", "acceptance_settings": {"alpha": 0.9}, "spd_k": 4}
    found = {}
    for name, more in {
        "native": {"acceptance": "native", "acceptance_settings": {}},
        "locked": {},
        "loosened": {"loosen_copied": True},
    }.items():
        own = config("retrieval", settings | more)
        decoder = SpeculativeDecoder(target, None, tiny_tokenizer(), own, batch_size=3)
        assert decoder.is_lossless == (name != "loosened")
        found[name] = decoder.generate([[5, 9, 7] * 6, [8, 8, 30] * 5], max_new_tokens=24)
    ids = {name: [result.token_ids for result in results] for name, results in found.items()}
    assert ids["locked"] == ids["native"]
    assert pooled(found["loosened"]).loose > 0


# --- single proposals that are marked


@pytest.fixture
def marking(registries):
    """Drafters that mark what they offer, with a draft model's probabilities or as trees."""

    @drafters.register("marked")
    class Marked(ModelDrafter):
        """Marks."""

        def propose(self, *arguments):
            """As the draft model, marked."""
            return replace(super().propose(*arguments), copies_context=True)

    @drafters.register("marked_tree")
    class MarkedTree(TreeDrafter):
        """Marks."""

        def propose(self, *arguments):
            """As the draft model, marked."""
            return replace(super().propose(*arguments), copies_context=True)


def decoded(settings, temperature, **more):
    decoder = base().with_config(config_of(**{"temperature": temperature, **settings, **more}))
    results = dict(decoder.decode(requests(6, 24, temperature)))
    return [results[index] for index in range(6)]


def config_args(settings):
    """As rescoring.config_of takes them."""
    return {"name": settings["acceptance"]} | {
        key: value for key, value in settings.items() if key != "acceptance"
    }


TREES = [("marked_tree", name) for name in ("fly 0", "no window", "margin 2")]


@pytest.mark.usefixtures("marking")
@pytest.mark.parametrize(
    ("drafter", "name"),
    mostly_slow([*TREES, *(("marked", name) for name in LOSSY)], len(TREES) + 3),
)
def test_marked_proposals_are_judged_natively_by_every_rule(drafter, name):
    rule = rules.get(LOSSY[name]["acceptance"])
    settings = config_args(LOSSY[name]) | {"drafter": drafter}
    for temperature in {temperature_of(settings["name"]), 1.0}:
        if rule.temperatures == ("greedy" if temperature else "sampled"):
            continue
        found = decoded(settings, temperature)
        native = decoded({"name": "native", "drafter": drafter}, temperature)
        for own, result in zip(native, found, strict=True):
            # Above 0 the last token of the budget is drawn otherwise by a rule that looks ahead.
            count = len(own.token_ids) - (temperature > 0)
            assert result.token_ids[:count] == own.token_ids[:count]
        assert pooled(found).loose == 0
        assert pooled(found).refused_protected > 0
        assert pooled(decoded(settings, temperature, loosen_copied=True)).loose > 0


@pytest.mark.usefixtures("marking")
def test_marked_proposals_in_a_shared_sweep():
    points = {
        name: config_of(**config_args(LOSSY[kind]), drafter="marked", **more)
        for name, kind, more in (
            ("fly 0", "fly 0", {}),
            ("mars 0", "mars 0", {}),
            ("loosened", "mars 0", {"loosen_copied": True}),
        )
    }
    target = tiny("llama")
    models = target, blurred(target, 0.06)
    shared = SharedDecoding(*models, tiny_tokenizer(), points, batch_size=4)
    asked = requests(6, 24)
    native = decoded({"name": "native", "drafter": "marked"}, 0.0)
    for name, point in points.items():
        answers = dict(shared.decode(name, asked))
        alone = dict(base().with_config(point).decode(asked))
        found = [answers[index].token_ids for index in range(6)]
        assert found == [alone[index].token_ids for index in range(6)]
        is_native = found == [own.token_ids for own in native]
        assert is_native == (name != "loosened")


class OwnTree(RetrievalDrafter):
    """A tree of what is no copy."""

    @classmethod
    def traits(cls, config):
        """Does not say that it copies."""
        return Traits(is_chain=False, is_tree=True, temperatures="greedy")


def test_chains_of_copies_in_place_of_trees_of_others(registries):
    drafters.register("own_tree")(OwnTree)
    own = FLyConfig(drafter="own_tree")
    assert own.setup.is_loose
    decoder = SpeculativeDecoder(tiny("bloom"), None, tiny_tokenizer(), own)
    assert decoder.served["drafter"] == "ngram"
    assert decoder.is_lossless


def test_a_mark_stays_with_its_proposal():
    proposal = replace(Proposal.from_lists([[5, 6], [7]], torch.device("cpu")), copies_context=True)
    moved = proposal.to(torch.device("meta"))
    assert moved.copies_context
    assert moved.ids.device.type == "meta"
    other = Proposal.from_lists([[5]], torch.device("cpu"))
    assert not other.to(torch.device("cpu")).copies_context


# --- a bandit, some of whose arms copy

ARMS = [{"drafter": "none"}, {"drafter": "model", "k": 12}, {"drafter": "ngram", "k": 12}]


def watched(decoder):
    """The decoder, and whether each of its proposals was marked."""
    drafter, marks = decoder.drafter, []
    propose = drafter.propose

    def watch(*arguments):
        proposal = propose(*arguments)
        marks.append(proposal.copies_context)
        return proposal

    drafter.propose = watch
    return decoder, marks


@pytest.mark.parametrize("loosens", [False, True])
def test_of_a_bandit_rounds_of_the_draft_model_alone_are_loosened(loosens):
    own = config(
        "bandit",
        {"acceptance": "cascade", "acceptance_settings": {"alpha": 0.9}},
        drafter_settings={"arms": ARMS, "policy": "thompson", "explore": 1.0},
        loosen_copied=loosens,
    )
    assert own.setup.is_loose
    target = tiny("llama")
    decoder, marks = watched(
        SpeculativeDecoder(
            target, blurred(target, 0.2), tiny_tokenizer(), own, batch_size=1, record_rounds=True
        )
    )
    assert isinstance(decoder.drafter, BanditDrafter)
    loose = {True: 0, False: 0}
    for number in range(4):
        marks.clear()
        [result] = decoder.generate([[5, 9, 7, number + 20] * 8], max_new_tokens=60)
        assert len(marks) == len(result.rounds)
        for is_marked, record in zip(marks, result.rounds, strict=True):
            loose[is_marked] += record.reasons.count(2)
    assert loose[False] > 0
    assert (loose[True] > 0) == loosens
