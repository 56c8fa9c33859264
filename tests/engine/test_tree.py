"""Trees are verified as their branches would be one by one, and the cache keeps the branch that was
chosen."""

import warnings
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from scipy.stats import chisquare

from fly.acceptance import Reason, Scores, rules
from fly.acceptance.fly import FlyRule
from fly.acceptance.loose import LooseRule
from fly.config import FLyConfig
from fly.drafting import TreeMask
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.deciding import RuleDecider
from fly.engine.model.per_row import RowModel
from fly.engine.model.slots import SlotModel
from fly.engine.tree import Branches
from fly.errors import ConfigError, DecodingError, FLyWarning
from fly.workbench.sweeps.shared import SharedDecoding
from tests.crossing import mostly_slow
from tests.engine.test_equality import assert_slots, counters, rescored
from tests.engine.test_sampling import PROCESSORS, PROMPT, next_probs
from tests.engine.trees import WildTrees, proposal_of
from tests.models import (
    ARCHITECTURES,
    WINDOW,
    Bytes,
    Tape,
    assert_same,
    blurred,
    gained,
    generate,
    generated,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)

TOKENS = 32
SHAPE = {"spd_k": 5, "branch_n": 3, "max_nodes_per_level": 4, "max_nodes_global": 12}
FLY = {"spd_k": 6, "win_len": 2, "entropy_thre": 0.3, "entropy": "top3"}
WIDE = {"branch_n": 3, "max_nodes_per_level": 6, "max_nodes_global": 40}


def decoder(target, draft=None, batch_size=4, drafter=None, record_rounds=False, **settings):
    """One of trees; `drafter` takes the place of the configured one."""
    settings = {**SHAPE, "tree_verify": True, "acceptance": "native", **settings}
    engine = SpeculativeDecoder(
        target,
        draft or blurred(target, 0.1),
        tiny_tokenizer(),
        FLyConfig(**settings),
        batch_size=batch_size,
        record_rounds=record_rounds,
    )
    if drafter is not None:
        engine._engine = replace(engine._engine, drafter=drafter)
    return engine


def pooled(results):
    return sum((result.statistics for result in results), Statistics())


def assert_counts(results):
    """The identities of chains hold for the branches kept."""
    for result in results:
        counts = result.statistics
        assert counts.emitted == gained(counts) - counts.trimmed == len(result.token_ids)
        assert counts.rounds == counts.corrections + counts.bonuses == len(result.round_lens)
        assert counts.matched + counts.loose == sum(kept for _, kept in result.round_lens)
        assert counts.proposed == sum(length for length, _ in result.round_lens)


def random_tree(size, generator):
    """Deeper than a sliding window is long."""
    follow = torch.rand(size, generator=generator) < 0.8
    parents = [
        place - 1 if follow[place] else int(torch.randint(-1, place, (1,), generator=generator))
        for place in range(1, size)
    ]
    return torch.tensor([-1, *parents])


def branch_of(place, parents):
    places = []
    while place >= 0:
        places.insert(0, place)
        place = int(parents[place])
    return places


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("kind", ARCHITECTURES)
@torch.inference_mode()
def test_logits_are_those_of_every_branch_alone(kind, num_rows):
    """In one forward or, as drafts do, a part of the tree behind another; prompts go past the
    windows."""
    model, generator = tiny(kind), torch.Generator().manual_seed(1)
    asked, size = prompts(num_rows, 40, seed=5), 40
    slots = SlotModel(model)
    slots.prefill([list(ids) for ids in asked], 0)
    parents = torch.stack([random_tree(size, generator) for _ in asked])
    tokens = torch.randint(4, 90, (num_rows, size), generator=generator)
    starts = [len(ids) for ids in asked]
    tree = TreeMask.from_parents(parents)
    assert tree.depths.max() > WINDOW
    whole = slots.extend_tree(tokens, starts, tree)
    rest = slots.extend_tree(tokens[:, 9:], [start + 9 for start in starts], tree)
    assert torch.allclose(rest, whole[:, 9:], atol=1e-4)
    for row, ids in enumerate(asked):
        for place in range(size):
            branch = branch_of(place, parents[row])
            text = torch.tensor([[*ids, *tokens[row, branch].tolist()]])
            assert torch.allclose(whole[row, place], model(text).logits[0, -1], atol=1e-3)


def test_branches():
    parents = torch.tensor([[-1, -1, 0, 1, 0, 2], [-1, 0, 1, 0, 0, 0], [5, 5, 5, 5, 5, 5]])
    found = Branches.of(torch.where(parents == 5, -1, parents), torch.tensor([6, 3, 0]))
    pairs = zip(found.rows.tolist(), found.nodes.tolist(), found.lengths.tolist(), strict=True)
    assert [(row, nodes[:length]) for row, nodes, length in pairs] == [
        (0, [0, 2, 5]),
        (0, [0, 4]),
        (0, [1, 3]),
        (1, [0, 1, 2]),
        (2, []),
    ]


@pytest.mark.parametrize("batch_size", mostly_slow([8, 1]))
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_native_text_equals_generate(kind, batch_size):
    """Of more requests than rows, to whatever end."""
    target, asked = tiny(kind), prompts(10)[: 10 if batch_size > 1 else 4]
    results = decoder(target, batch_size=batch_size).generate(asked, max_new_tokens=TOKENS)
    answers = [result.token_ids for result in results]
    assert_same(target, asked, answers, [generated(target, ids, TOKENS) for ids in asked])
    assert_counts(results)
    counts = pooled(results)
    assert counts.loose == 0
    assert min(counts.matched, counts.corrections) > 10


@pytest.mark.parametrize("batch_size", mostly_slow([8, 1]))
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_native_text_is_the_targets_whatever_is_offered(kind, batch_size):
    """And every slot of the cache holds its position after every round."""
    target, asked = tiny(kind), prompts(10)[: 10 if batch_size > 1 else 3]
    want = [generated(target, ids, TOKENS) for ids in asked]
    known = [[*ids, *answer] for ids, answer in zip(asked, want, strict=True)]
    wild = WildTrees(known)
    engine = decoder(target, batch_size=batch_size, drafter=wild)
    retire, compared = engine._retire, []

    def retire_and_compare(scheduler):
        finished = retire(scheduler)
        for index, row in enumerate(scheduler.rows):
            if ids := row.ids[:-1]:
                assert_slots(engine._target, index, ids)
                compared.append(index)
        return finished

    engine._retire = retire_and_compare
    results = engine.generate(asked, max_new_tokens=TOKENS)
    assert_same(target, asked, [result.token_ids for result in results], want)
    assert_counts(results)
    counts = pooled(results)
    assert counts.matched > counts.rounds, "true branches are found"
    assert len(compared) > 10
    for proposal, logits, kept in wild.seen:
        if proposal.ids.shape[1]:
            assert logits.shape[:2] == (len(kept), proposal.ids.shape[1] + 1)


def test_rows_without_a_tree_are_decoded_plainly():
    target = tiny("llama")
    engine = decoder(target, drafter=WildTrees(seed=1))
    engine._engine.drafter.propose = lambda rows, limits, choose: proposal_of(
        [([], [])] * len(rows)
    )
    results = engine.generate(prompts(3), max_new_tokens=9)
    assert [r.token_ids for r in results] == [generated(target, ids, 9) for ids in prompts(3)]
    assert pooled(results).plain == pooled(results).emitted


def test_a_token_before_the_one_that_it_follows_is_refused():
    engine = decoder(tiny("llama"), drafter=WildTrees())
    engine._engine.drafter.propose = lambda rows, limits, choose: proposal_of([([5, 6], [1, -1])])
    with pytest.raises(ValueError, match="stands before"):
        engine.generate(prompts(1), max_new_tokens=9)


def test_native_text_at_the_end_of_the_context():
    target = tiny("gpt2", max_position_embeddings=48)
    asked = (*prompts(3, longest=44), tuple(range(4, 51)))
    for draft in (blurred(target), tiny("gpt2", seed=1, max_position_embeddings=30)):
        requests = [Request(ids, 48 - len(ids)) for ids in asked]
        found = dict(decoder(target, draft).decode(requests))
        want = [generated(target, ids, 48 - len(ids)) for ids in asked]
        assert_same(target, asked, [found[i].token_ids for i in range(4)], want)


def test_answers_end_where_chains_end():
    """At stop strings, budgets and end tokens."""
    target = tiny("llama")
    requests = [
        Request(ids, 3 + 5 * i, stop=("a", "ing")[: i % 3]) for i, ids in enumerate(prompts(9))
    ]
    trees, chains = (
        dict(decoder(target, tree_verify=is_tree).decode(requests)) for is_tree in (True, False)
    )
    for i in range(9):
        assert trees[i].token_ids == chains[i].token_ids
        assert (trees[i].text, trees[i].finish_reason) == (chains[i].text, chains[i].finish_reason)
    assert {result.finish_reason for result in trees.values()} >= {"stop", "length"}


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_single_branch_is_the_chain(kind):
    """Down to every counter."""
    target = tiny(kind)
    for rule in ({}, {**FLY, "acceptance": "fly"}):
        one, other = (
            decoder(target, blurred(target), tree_verify=is_tree, **{"branch_n": 1, **rule})
            for is_tree in (True, False)
        )
        pairs = zip(
            *(e.generate(prompts(9), max_new_tokens=TOKENS) for e in (one, other)), strict=True
        )
        for tree, chain in pairs:
            assert (tree.token_ids, tree.origins) == (chain.token_ids, chain.origins)
            assert counters(tree) == counters(chain)


@pytest.mark.parametrize("kind", mostly_slow(ARCHITECTURES, 2))
def test_trees_gain_no_less_than_chains(kind):
    """In every round of the same text: the chain is one of the branches."""
    target = tiny(kind)
    shape = {"max_nodes_per_level": 3, "max_nodes_global": 15}
    trees, chains = (
        decoder(target, tree_verify=is_tree, **shape).generate(prompts(9), max_new_tokens=TOKENS)
        for is_tree in (True, False)
    )
    tau = [pooled(results).metrics()["mean_acceptance_length"] for results in (trees, chains)]
    assert tau[0] > 1.1 * tau[1]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_fly_holds_along_the_branch_when_scored_from_scratch(kind):
    """And what is chosen keeps most, then loosens least."""
    target = tiny(kind)
    rule = FlyRule(window=2, threshold=0.3)
    settings = {**FLY, **WIDE, "acceptance": "fly", "protect_special_tokens": False}
    drafter = blurred(target)
    results = decoder(target, drafter, 5, record_rounds=True, **settings).generate(
        prompts(8), max_new_tokens=TOKENS
    )
    loosened = 0
    for prompt, result in zip(prompts(8), results, strict=True):
        ids = list(prompt)
        for record in result.rounds:
            scores = rescored(target, ids, record.draft_ids)
            verdict = rule.accept(scores)
            assert record.reasons == verdict.reason[0].tolist()
            kept = [*record.accepted, False].index(False)
            own = scores.choice[0, kept].item()
            assert record.emitted_ids == [*record.draft_ids[:kept], own]
            for each in record.mismatches:
                assert each.preferred_id == scores.choice[0, each.place]
                assert each.entropy == pytest.approx(
                    scores.entropy("top3")[0, each.place].item(), abs=1e-3
                )
            loosened += record.reasons[:kept].count(Reason.LOOSE)
            ids += record.emitted_ids
        assert ids[: len(prompt) + len(result.token_ids)] == [*prompt, *result.token_ids]
    assert_counts(results)
    assert loosened > 5


def test_fly_does_not_depend_on_the_batch():
    target = tiny("gemma2")
    settings = {**FLY, **WIDE, "acceptance": "fly"}
    alone, together = (
        decoder(target, blurred(target), size, **settings).generate(prompts(9), max_new_tokens=24)
        for size in (1, 4)
    )
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [counters(r) for r in together] == [counters(r) for r in alone]
    assert pooled(alone).loose > 5


@torch.inference_mode()
def best_by_hand(target, rule, ids, tokens, parents):
    """What a round emits, from its definition, with a forward for every branch."""
    leaves = set(range(len(tokens))) - set(parents)
    ranked = []
    for leaf in leaves:
        places = branch_of(leaf, parents)
        scores = rescored(target, ids, [tokens[place] for place in places])
        verdict = rule.accept(scores)
        kept = [*verdict.accepted[0].tolist(), False].index(False)
        loose = int(verdict.loose[0, :kept].sum())
        last = places[kept - 1] if kept else -1
        text = [*(tokens[place] for place in places[:kept]), int(scores.choice[0, kept])]
        ranked.append(((-kept, loose, last), text))
    return min(ranked)[1]


def test_the_best_branch_is_chosen(monkeypatch):
    """Random trees under a rule that loosens much; logits shown in many pieces or at once."""
    target, rule = tiny("llama"), FlyRule(threshold=0.3, no_window=True)
    settings = {"acceptance": "fly", "abla_no_window": True, "entropy_thre": 0.3}
    settings |= {"protect_special_tokens": False}
    for pieces in (2**26, 1):
        monkeypatch.setattr("fly.acceptance.tables.LARGEST", pieces)
        wild = WildTrees(seed=4)
        engine = decoder(target, drafter=wild, record_rounds=True, batch_size=3, **settings)
        results = engine.generate(prompts(5), max_new_tokens=20)
        num_loose = 0
        for prompt, result in zip(prompts(5), results, strict=True):
            ids = list(prompt)
            for record in result.rounds:
                tokens, parents = wild._tree(ids)
                if tokens:
                    assert record.emitted_ids == best_by_hand(target, rule, ids, tokens, parents)
                num_loose += record.reasons.count(Reason.LOOSE)
                ids += record.emitted_ids
        assert num_loose > 10


@pytest.mark.parametrize("top_k", [4])
def test_samples_follow_the_targets_distribution(top_k):
    """Pairs of tokens against their exact probabilities: one draw behind every token."""
    target, temperature = tiny("llama", eos_token_id=None), 3.0
    want = {}
    for first, p in enumerate(next_probs(target, PROMPT, temperature, top_k)):
        if p:
            then = next_probs(target, (*PROMPT, first), temperature, top_k)
            want.update({(first, second): p * q for second, q in enumerate(then) if q})
    engine = decoder(target, batch_size=64, spd_k=3)
    results = engine.generate(
        [PROMPT] * 3000, max_new_tokens=2, temperature=temperature, top_k=top_k, seed=1
    )
    counts = Counter(tuple(result.token_ids) for result in results)
    assert set(counts) <= set(want)
    scale = 3000 / sum(want.values())
    expected = [p * scale for p in want.values()]
    assert chisquare([counts[pair] for pair in want], expected).pvalue > 0.01
    assert min(pooled(results).matched, pooled(results).corrections) > 300


@pytest.mark.parametrize("drafter", [None, WildTrees(seed=2)], ids=["tree", "wild"])
def test_a_seed_decides_whatever_the_batch(drafter):
    target = tiny("llama")
    requests = [
        Request(ids, 24, temperature=1.5 * (i % 3 > 0), seed=100 + i, generation={"top_k": 20})
        for i, ids in enumerate(prompts(9))
    ]
    alone, together = (
        dict(decoder(target, batch_size=size, drafter=drafter).decode(requests)) for size in (1, 4)
    )
    for i, request in enumerate(requests):
        assert alone[i].token_ids == together[i].token_ids
        if request.temperature == 0:
            assert alone[i].token_ids == generated(target, request.prompt_ids, 24)
    assert_counts(alone.values())


@pytest.mark.parametrize("options", PROCESSORS.values(), ids=PROCESSORS)
def test_processors_see_every_branch(options):
    target = tiny("llama")
    results = decoder(target).generate(prompts(6), max_new_tokens=20, **options)
    answers = [result.token_ids for result in results]
    assert answers == [generate(target, ids, 20, **options) for ids in prompts(6)]


def test_sampled_fly_never_keeps_what_is_forbidden():
    target, forbidden = tiny("llama"), list(range(4, 60))
    settings = {"acceptance": "fly", "abla_no_window": True, "entropy_thre": 0.02, **WIDE}
    results = decoder(target, **settings).generate(
        prompts(8), max_new_tokens=24, suppress_tokens=forbidden, temperature=1.5
    )
    assert not {token for result in results for token in result.token_ids} & set(forbidden)
    assert pooled(results).loose > 5
    assert_counts(results)


class AnyRule(LooseRule):
    """Loosens everything, from everything that scores offer."""

    def accept(self, scores):
        same = Scores(
            scores.logits,
            scores.ids,
            scores.lengths,
            processed=scores.processed,
            drawn=scores.drawn,
        )
        everywhere = scores.in_proposal
        for name in ("p_draft", "p_best", "probs", "final", "choice", "draft_possible"):
            mine, theirs = getattr(scores, name), getattr(same, name)
            if name in ("p_draft", "p_best", "draft_possible"):
                mine, theirs = mine[everywhere], theirs[everywhere]
            assert torch.equal(mine, theirs), name
        for kind in ("top3", "full"):
            for is_final in (False, True):
                mine = scores.entropy(kind, is_final=is_final)[everywhere]
                assert torch.allclose(mine, same.entropy(kind, is_final=is_final)[everywhere])
        assert torch.equal(scores.native, same.native)
        return super().accept(scores)

    def loosens(self, scores):
        return torch.ones_like(scores.native)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rules_see_branches_as_chains(temperature):
    target = tiny("llama")
    engine = decoder(target, batch_size=3)
    engine._engine = replace(engine._engine, decider=RuleDecider(AnyRule()))
    results = engine.generate(
        prompts(5), max_new_tokens=20, temperature=temperature, repetition_penalty=1.2
    )
    counts = pooled(results)
    assert counts.loose > 20


def test_nothing_is_loosened_where_a_guard_says_so():
    target = tiny("llama")
    settings = {"acceptance": "fly", "abla_no_window": True, "entropy_thre": 0.02, **WIDE}
    results = decoder(target, **settings, strict_first_n=7).generate(prompts(8), max_new_tokens=20)
    assert all("l" not in result.origins[:7] for result in results)
    assert sum("l" in result.origins[7:10] for result in results) > 0


def test_official_counters_are_those_of_the_branch():
    target = tiny("llama")
    settings = {**FLY, **WIDE, "acceptance": "fly", "enable_statistics": True}
    results = decoder(target, blurred(target), **settings, record_rounds=True).generate(
        prompts(5), max_new_tokens=20
    )
    for result in results:
        mismatches = sum(not match for record in result.rounds for match in record.native)
        assert result.statistics.official_mismatches == mismatches


def test_logits_that_are_not_finite_are_found_in_any_branch():
    target = tiny("llama")
    engine = decoder(target, drafter=WildTrees(seed=3))
    extend_tree = engine._target.extend_tree

    def poisoned(*arguments):
        logits = extend_tree(*arguments)
        logits[-1, -1] = float("nan")
        return logits

    engine._target.extend_tree = poisoned
    for temperature in (0.0, 1.0):
        with pytest.raises(DecodingError, match="not finite"):
            engine.generate(prompts(3), max_new_tokens=9, temperature=temperature)


def test_models_that_cannot_read_trees_draft_chains():
    """One warning, and the chain's text."""
    target, draft = tiny("llama"), blurred(tiny("llama"), 0.1)
    want = [generated(target, ids, 12) for ids in prompts(4)]
    pairs = {"target": (RowModel(target), draft), "draft": (target, RowModel(draft))}
    for role, (one, other) in pairs.items():
        with pytest.warns(FLyWarning, match=f"the {role} cannot read the branches") as caught:
            engine = decoder(one, other)
        assert len(caught) == 1
        assert engine.served["drafter"] == "model"
        results = engine.generate(prompts(4), max_new_tokens=12)
        assert [result.token_ids for result in results] == want
    tape = Tape("abcabc" * 5)
    with pytest.warns(FLyWarning, match="the target cannot read"):
        engine = SpeculativeDecoder(tape, tape, Bytes(), FLyConfig(tree_verify=True))
    assert engine.generate([ids_of("x")], max_new_tokens=9)[0].text == "abcabcabc"


def test_decoders_of_trees_and_chains_share_models():
    target = tiny("llama")
    trees = decoder(target)
    chains = trees.with_config(FLyConfig(acceptance="native"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = chains.with_config(trees.config)
    answers = [engine.generate(prompts(5), max_new_tokens=12) for engine in (trees, chains, again)]
    for results in answers:
        assert [r.token_ids for r in results] == [generated(target, i, 12) for i in prompts(5)]
    assert pooled(answers[2]).rounds == pooled(answers[0]).rounds


def test_rules_that_need_a_chain_are_refused(monkeypatch):
    class Drawn(FlyRule):
        needs_law: ClassVar[bool] = True

    monkeypatch.setitem(rules._entries, "drawn", Drawn)
    assert FLyConfig(acceptance="drawn").setup.rule_name == "drawn"
    with pytest.raises(ConfigError, match="'drawn' decides by the law that a chain is drawn from"):
        FLyConfig(acceptance="drawn", tree_verify=True)


def test_points_of_a_sweep_draft_no_trees():
    target = tiny("llama")
    points = {"one": FLyConfig(tree_verify=True)}
    with pytest.raises(ConfigError, match="'tree' offers trees"):
        SharedDecoding(target, blurred(target), tiny_tokenizer(), points)
