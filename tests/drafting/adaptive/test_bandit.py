"""The bandit finds the best arm in virtual time, whatever the arms do, and leaves text alone."""

import json
from types import SimpleNamespace

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import Drafter, DrafterContext, Proposal, drafters
from fly.drafting.adaptive.bandit import ArmSettings, BanditDrafter, BanditSettings
from fly.engine import SpeculativeDecoder
from fly.engine.model.slots import SlotModel
from fly.engine.step import make_drafter
from fly.errors import ConfigError, FLyWarning
from tests.crossing import mostly_slow
from tests.drafting.rounds import World, steady
from tests.models import VOCAB, assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

POLICIES = ["ucb1", "thompson"]


@pytest.mark.parametrize("policy", POLICIES)
def test_finds_the_best_of_four(policy):
    world = World([steady(3), steady(8), steady(5, 1.5), steady(4)], policy=policy)
    world.play(600)
    tokens, seconds = world.play(2000)
    assert tokens / seconds > 0.95 * 8
    report = world.bandit.report()["bandit"]["situations"]["task"]
    assert report["best"] == "ngram:k=2"
    assert 0 <= report["regret_share"] < 0.2


@pytest.mark.parametrize("policy", POLICIES)
def test_reward_is_speed_and_not_tokens(policy):
    """The arm that brings most tokens takes too long."""
    world = World([steady(4, 1.0), steady(10, 4.0)], policy=policy)
    world.play(800)
    world.pulls.clear()
    world.play(800)
    assert world.pulls.count(0) > 0.7 * 800


@pytest.mark.parametrize("policy", POLICIES)
def test_an_arm_that_turns_bad_half_way(policy):
    turning = lambda turn, rng: steady(9 if turn < 1000 else 2)(turn, rng)  # noqa: E731
    world = World([steady(5), turning], policy=policy)
    first = world.play(1000)
    world.play(150)  # to notice
    second = world.play(1000)
    assert first[0] / first[1] > 0.9 * 9
    assert second[0] / second[1] > 0.9 * 5


@pytest.mark.parametrize("policy", POLICIES)
def test_an_arm_that_turns_good_half_way(policy):
    """Discounted pulls keep exploring; else it would never be found."""
    turning = lambda turn, rng: steady(9 if turn >= 1000 else 4)(turn, rng)  # noqa: E731
    world = World([steady(5), turning], policy=policy)
    world.play(1000)
    world.play(150)  # to notice
    found = world.play(1000)
    assert found[0] / found[1] > 0.95 * 9


@pytest.mark.parametrize("policy", POLICIES)
def test_an_arm_that_is_always_nonsense(policy):
    nonsense = lambda turn, rng: (1, 2.0)  # noqa: E731
    world = World([nonsense, steady(4), nonsense], policy=policy)
    world.play(600)
    tokens, seconds = world.play(2000)
    assert tokens / seconds > 0.95 * 4


@pytest.mark.parametrize("policy", POLICIES)
def test_arms_that_are_equal_cost_nothing(policy):
    world = World([steady(5)] * 4, policy=policy)
    tokens, seconds = world.play(3000)
    assert tokens / seconds > 0.97 * 5


def test_first_rounds_of_an_arm_are_left_out():
    world = World([lambda turn, rng: (1, 100.0) if turn < 2 else (5, 1.0), steady(4)])
    world.play(400)
    arms = world.bandit.report()["bandit"]["situations"]["task"]["arms"]
    assert arms["ngram:k=1"]["tokens_per_s"] == 5
    assert arms["ngram:k=1"]["pulls"] > 300


def test_tasks_are_learned_apart():
    world = World([lambda turn, rng: (6 if world.row.key == "a" else 2, 1.0), steady(4)])
    for key in "abab":
        world.row.key = key
        world.play(200)
    situations = world.bandit.report()["bandit"]["situations"]
    assert {key: found["best"] for key, found in situations.items()} == {
        "a": "ngram:k=1",
        "b": "ngram:k=2",
    }


class Copies(Drafter):
    """Knows what comes; says whether its row repeats itself."""

    def __init__(self, text, is_repeating=True):
        self.text = text
        self.repeats = is_repeating

    def propose(self, rows, limits, choose=None):
        offers = [
            self.text[len(row.ids) :][:limit] for row, limit in zip(rows, limits, strict=True)
        ]
        return Proposal.from_lists(offers, torch.device("cpu"))

    def is_repeating(self, row):
        return self.repeats


def test_situations_tell_repeating_texts_apart():
    source = Copies([])
    bandit = BanditDrafter(BanditSettings(arms=[ArmSettings(drafter="ngram")]), [source], [(0, 4)])
    rows = [SimpleNamespace(ids=[1], key="a"), SimpleNamespace(ids=[1], key="b")]
    rows += [SimpleNamespace(ids=[1], key="b")]
    bandit.propose(rows, [4] * 3)
    assert bandit._now.situation == "b (repeating)"
    source.repeats = False
    bandit.propose(rows, [4] * 3)
    assert bandit._now.situation == "b"


def test_hedge_learns_of_arms_that_were_not_pulled():
    text = list(range(4, 90)) * 8
    arms = [ArmSettings(drafter="ngram", k=k) for k in (2, 8)] + [ArmSettings(drafter="none")]
    settings = BanditSettings(arms=arms, policy="hedge", explore=0.05)
    now = [0.0]
    sources = [Copies(text), Copies([])]
    bandit = BanditDrafter(settings, sources, [(0, 2), (0, 8), (1, 0)], clock=lambda: now[0])
    row = SimpleNamespace(ids=text[:5], key="")
    lengths = []
    for _ in range(60):
        proposal = bandit.propose([row], [99])
        kept = int(proposal.lengths[0])
        lengths.append(kept)
        now[0] += 1.0
        row.ids = text[: len(row.ids) + kept + 1]
        bandit.commit([row])
    assert lengths[-20:].count(8) > 14
    weights = [arm.weight for arm in bandit.knowledge.of(" (repeating)")]
    assert weights[1] > weights[0] > weights[2]


def test_what_is_learned_is_kept(tmp_path):
    path = tmp_path / "kept" / "arms.json"
    world = World([steady(3), steady(8)], state=str(path))
    world.play(300)
    world.bandit.finish()
    assert json.loads(path.read_text())["arms"] == ["ngram:k=1", "ngram:k=2"]
    again = World([steady(3), steady(8)], state=str(path))
    again.play(200)
    assert again.pulls.count(1) > 190
    one, two = (w.bandit.knowledge.of("task")[1] for w in (world, again))
    assert two.all_pulls > one.all_pulls


def test_what_an_earlier_version_learned_is_read(tmp_path):
    path = tmp_path / "arms.json"
    arm = {"pulls": 2.5, "tokens": 9.0, "seconds": 3.0, "squares": [40.0, 11.0, 4.0]}
    arm |= {"weight": 0.0, "all_pulls": 4, "all_tokens": 14, "all_seconds": 5.0}
    known = {"version": 1, "arms": ["ngram:k=1", "ngram:k=2"], "situations": {"task": [arm, arm]}}
    path.write_text(json.dumps(known))
    world = World([steady(3), steady(8)], state=str(path))
    world.play(50)
    assert world.pulls.count(1) > 40
    assert world.bandit.knowledge.of("task")[1].all_tokens > 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1, "arms": ["x"], "situations": {}}',
        '{"version": 1, "arms": ["ngram:k=1", "ngram:k=2"], "situations": {"task": [{}, {}]}}',
        '{"version": 1, "arms": ["ngram:k=1", "ngram:k=2"], "situations": {"task": []}}',
    ],
)
def test_a_damaged_file_is_told_and_learned_anew(tmp_path, text):
    path = tmp_path / "arms.json"
    path.write_text(text)
    with pytest.warns(FLyWarning, match="learned anew"):
        world = World([steady(3), steady(8)], state=str(path))
    world.play(50)
    world.bandit.finish()
    assert len(json.loads(path.read_text())["situations"]["task"]) == 2


def test_what_cannot_be_kept_is_told_once(tmp_path):
    world = World([steady(3), steady(8)], state=str(tmp_path))
    world.play(20)
    with pytest.warns(FLyWarning, match="cannot be kept"):
        world.bandit.finish()
    world.play(20)
    world.bandit.finish()
    assert list(tmp_path.iterdir()) == []


ARMS = [
    {"drafter": "none"},
    {"drafter": "model", "k": 3},
    {"drafter": "model", "k": 7},
    {"drafter": "multilevel", "k": 5},
    {"drafter": "ngram", "k": 4},
]


def bandit_config(**settings):
    own = {"arms": ARMS, "policy": "thompson", "explore": 1.0, **settings}
    return FLyConfig(drafter="bandit", drafter_settings=own, acceptance="native")


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "gemma2"]))
def test_native_text_whatever_the_arm(kind, batch_size):
    target = tiny(kind)
    decoder = SpeculativeDecoder(
        target, blurred(target), tiny_tokenizer(), bandit_config(), batch_size=batch_size
    )
    asked = prompts(12)
    results = decoder.generate([list(prompt) for prompt in asked], max_new_tokens=24)
    want = [generated(target, prompt, 24) for prompt in asked]
    assert_same(target, asked, [result.token_ids for result in results], want)
    (found,) = decoder.drafter.report()["bandit"]["situations"].values()
    assert sum(arm["pulls"] for arm in found["arms"].values()) > 0


def test_all_arms_are_pulled_and_share_the_draft():
    target = tiny("llama")
    decoder = SpeculativeDecoder(target, blurred(target), tiny_tokenizer(), bandit_config())
    decoder.generate([list(prompt) for prompt in prompts(16)], max_new_tokens=60)
    (sums,) = decoder.drafter.knowledge._sums.values()
    assert all(arm.all_pulls > 0 for arm in sums)
    assert len(decoder.drafter._sources) == 4


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="policy is 'best'"):
        bandit_config(policy="best")
    with pytest.raises(ConfigError, match=r"unknown drafter 'modle'; did you mean 'model'"):
        bandit_config(arms=[{"drafter": "modle"}])
    with pytest.raises(ConfigError, match="hedge"):
        bandit_config(policy="hedge")
    with pytest.raises(ConfigError, match="bandit"):
        bandit_config(arms=[{"drafter": "bandit"}])
    with pytest.raises(ConfigError, match="'self:k=15' needs a draft model"):
        bandit_config(arms=[{"drafter": "self"}])
    with pytest.raises(ConfigError, match="'ngram:k=15' is there twice"):
        bandit_config(arms=[{"drafter": "ngram"}, {"drafter": "ngram"}])


def test_a_policy_of_earlier_versions_is_ucb1():
    with pytest.warns(FLyWarning, match="policy exp3 is no more; ucb1 chooses"):
        config = bandit_config(policy="exp3", explore=0.05)
    with pytest.warns(FLyWarning, match="exp3"):
        settings = BanditSettings(**config.drafter_settings)
    assert (settings.policy, settings.exploring) == ("ucb1", 0.4)


def test_needs_what_its_arms_need():
    assert bandit_config().setup.traits.needs_model
    lookups = bandit_config(arms=[{"drafter": "ngram"}, {"drafter": "none"}])
    assert not lookups.setup.traits.needs_model
    assert lookups.setup.traits.is_timed
    parts = DrafterContext(torch.device("cpu"), VOCAB, make=make_drafter)
    assert isinstance(
        drafters.get("bandit").from_config(lookups.setup.drafter, parts), BanditDrafter
    )


def test_arms_whose_trees_cannot_be_read_are_left_out():
    config = bandit_config(arms=[{"drafter": "tree"}, {"drafter": "ngram"}])
    parts = DrafterContext(
        torch.device("cpu"),
        VOCAB,
        model=SlotModel(tiny("llama")),
        reads_trees=False,
        make=make_drafter,
    )
    with pytest.warns(FLyWarning, match="arm 'tree:k=15' is left out"):
        bandit = BanditDrafter.from_config(config.setup.drafter, parts)
    assert bandit.knowledge.names == ["ngram:k=15"]


def test_arms_may_be_trees():
    target = tiny("llama")
    arms = [{"drafter": "tree", "k": 3}, {"drafter": "model", "k": 4}, {"drafter": "retrieval"}]
    decoder = SpeculativeDecoder(
        target, blurred(target), tiny_tokenizer(), bandit_config(arms=arms), batch_size=3
    )
    asked = prompts(9)
    results = decoder.generate([list(prompt) for prompt in asked], max_new_tokens=24)
    want = [generated(target, prompt, 24) for prompt in asked]
    assert_same(target, asked, [result.token_ids for result in results], want)
