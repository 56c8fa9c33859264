"""Trees of the draft's likeliest continuations, against a search spelt out without a cache, in
ragged batches and over many rounds."""

import math
import random
from itertools import pairwise

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext, TreeMask
from fly.drafting.chain import ModelDrafter
from fly.drafting.tree import Growth, TreeDrafter, TreeShape
from fly.engine.model.slots import SlotModel
from fly.errors import ConfigError
from tests.crossing import mostly_slow
from tests.drafting.test_chain import K, leave, play, ragged, rows_of, started
from tests.models import VOCAB, prompts, tiny

SHAPES = {
    "all kept": TreeShape(3, 2, 8, 100),
    "few of a level": TreeShape(5, 3, 4, 100),
    "few in all": TreeShape(5, 4, 6, 9),
    "one level": TreeShape(1, 10, 4, 100),
    "one token": TreeShape(4, 5, 5, 1),
    "all the vocabulary": TreeShape(2, 1000, 5, 7),
}


def drafter_of(shape):
    return lambda model: TreeDrafter(model, shape)


@torch.inference_mode()
def log_probs(model, ids):
    return model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)


def search(model, ids, shape, limit):
    """{branch: log probability} of the tree from its definition, a forward over the whole text for
    every token of it."""
    level, kept = {(): 0.0}, {}
    for _ in range(min(limit, shape.depth)):
        found = {}
        for branch, score in level.items():
            probs = log_probs(model, [*ids, *branch])
            for token in probs.argsort(descending=True)[: shape.branch_n].tolist():
                longer = (*branch, token)
                found[longer] = score + probs[token].item()
        best = sorted(found, key=found.get, reverse=True)[: shape.level_n]
        level = {branch: found[branch] for branch in best}
        kept |= level
    best = sorted(kept, key=kept.get, reverse=True)[: shape.total_n]
    return {branch: kept[branch] for branch in best}


def branches(proposal):
    """Every row's tokens as whole branches, in the order of the proposal."""
    found = []
    parents = [[]] * len(proposal.ids) if proposal.parents is None else proposal.parents.tolist()
    for tokens, above in zip(ragged(proposal), parents, strict=True):
        row = []
        for place, token in enumerate(tokens):
            assert -1 <= above[place] < place
            row.append((*(row[above[place]] if above[place] >= 0 else ()), token))
        found.append(row)
    return found


@torch.inference_mode()
def play_trees(model, shape, num_rows, num_rounds, seed=0):
    """As play, for trees: a random branch is kept in part."""
    fate = random.Random(seed)
    texts = list(prompts(num_rows + num_rounds, 20, seed))
    rows = rows_of(*(texts.pop() for _ in range(num_rows)))
    drafter = started(drafter_of(shape), model, rows)
    for _ in range(num_rounds):
        limits = [fate.choice((9, 9, 2, 1, 0)) for _ in rows]
        proposal = drafter.propose(rows, limits)
        for row, limit, found in zip(rows, limits, branches(proposal), strict=True):
            yield list(row.ids), limit, found
            branch = fate.choice(found or [()])
            row.ids += [*branch[: fate.randint(0, len(branch))], fate.randrange(4, VOCAB)]
        drafter.commit(rows)
        if len(rows) > 1 and fate.random() < 0.5:
            leave(drafter, rows, fate.randrange(len(rows) - 1))
        if fate.random() < 0.6:
            rows += rows_of(texts.pop())
            drafter.prefill(rows)


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "gemma2", "gpt2"]))
def test_keeps_the_likeliest_branches(kind, num_rows):
    model, shape = tiny(kind, seed=1), TreeShape(3, 3, 4, 9)
    for ids, limit, found in play_trees(model, shape, num_rows, 6):
        assert len(set(found)) == len(found)
        assert set(found) == set(search(model, ids, shape, limit))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(shape):
    model, rows = tiny("llama", seed=1), rows_of(*prompts(2))
    with torch.inference_mode():
        found = branches(started(drafter_of(shape), model, rows).propose(rows, [9, 9]))
    for row, offered in zip(rows, found, strict=True):
        wanted = search(model, row.ids, shape, 9)
        assert set(offered) == set(wanted)
        assert len(offered) <= shape.total_n
        depths = [len(branch) for branch in offered]
        assert depths == sorted(depths), "level by level"
        for one, next_one in pairwise(offered):
            is_likelier = wanted[one] >= wanted[next_one] - 1e-5
            assert len(one) < len(next_one) or is_likelier, "the likelier first"


@pytest.mark.parametrize("num_rows", [1, 4])
def test_a_single_branch_is_the_chain(num_rows):
    shape = TreeShape(K, 1, 10, 100)
    games = (
        play(make, tiny("gemma2", seed=1), num_rows, 10)
        for make in (drafter_of(shape), lambda model: ModelDrafter(model, K))
    )
    for one, other in zip(*games, strict=True):
        assert one == other


@pytest.mark.parametrize("limits", [[0, 0, 0], [0, 3, 9], [1, 0, 1]])
def test_limits_bound_every_branch(limits):
    shape = TreeShape(4, 3, 3, 9)
    model, rows = tiny("llama", seed=1), rows_of(*prompts(3))
    with torch.inference_mode():
        proposal = started(drafter_of(shape), model, rows).propose(rows, limits)
    for row, limit, found in zip(rows, limits, branches(proposal), strict=True):
        assert set(found) == set(search(model, row.ids, shape, limit))
    assert proposal.draft_forwards <= max(limits)


def test_a_draft_of_short_context():
    """Trees end where the draft's positions end, and longer prompts get none."""
    shape = TreeShape(5, 2, 3, 12)
    model = tiny("gpt2", seed=1, max_position_embeddings=24)
    text = list(range(4, 40))
    rows = rows_of(text[:20], text[:30], text[:8], text[:23], text[:24])
    with torch.inference_mode():
        drafter = started(drafter_of(shape), model, rows)
        for room in (4, 3, 2):
            found = branches(drafter.propose(rows, [9] * 5))
            depths = [max(map(len, row), default=0) for row in found]
            assert depths == [room, 0, 5, max(0, room - 3), 0]
            for row, offered in zip(rows, found, strict=True):
                limit = max(0, 24 - len(row.ids))
                assert set(offered) == set(search(model, row.ids, shape, limit))
                row.ids.append(50)
            drafter.commit(rows)


def test_levels_that_can_gain_nothing_are_not_built(monkeypatch):
    """Forwards of the draft are saved, and the trees are the same."""
    shape = TreeShape(8, 4, 4, 4)
    rows = rows_of(*prompts(4))
    with torch.inference_mode():
        some = started(drafter_of(shape), tiny("gpt2", seed=1), rows).propose(rows, [9] * 4)
        monkeypatch.setattr(Growth, "can_gain", lambda *_: True)
        every = started(drafter_of(shape), tiny("gpt2", seed=1), rows).propose(rows, [9] * 4)
    assert branches(some) == branches(every)
    assert some.draft_forwards < every.draft_forwards == 8


def test_mask():
    """Level by level or at once: each sees what it follows, and itself."""
    parents = torch.tensor([[-1, -1, 0, 1, 1, 3], [-1, -1, -1, 2, 2, 4]])
    seen = torch.zeros(2, 6, 6, dtype=torch.bool)
    for row in range(2):
        for place in range(6):
            above = place
            while above >= 0:
                seen[row, place, above] = True
                above = int(parents[row, above])
    whole = TreeMask.from_parents(parents)
    grown = TreeMask.empty(2, torch.device("cpu"))
    for begin, end in ((0, 2), (2, 3), (3, 5), (5, 6)):
        grown = grown.grown(parents[:, begin:end])
    assert whole.depths.tolist() == [[0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 2]]
    assert torch.equal(whole.seen, seen)
    assert torch.equal(grown.seen, seen)


def test_scores_are_log_probabilities_of_branches():
    model, rows = tiny("llama", seed=1), rows_of(prompts(1)[0])
    logits = log_probs(model, rows[0].ids)[None, None]
    shape = TreeShape(2, 3, 2, 9)
    growth = Growth.empty(1, torch.device("cpu")).grown(logits, shape, torch.tensor([True]))
    best = logits[0, 0].topk(2)
    assert growth.tokens[0].tolist() == best.indices.tolist()
    assert torch.allclose(growth.scores[0], best.values)
    again = growth.grown(logits.expand(1, 2, -1), shape, torch.tensor([True]))
    assert math.isclose(again.scores[0, 2], 2 * best.values[0], rel_tol=1e-5)
    shut = growth.grown(logits.expand(1, 2, -1), shape, torch.tensor([False]))
    assert shut.scores[0, 2:].tolist() == [-math.inf] * 2


def test_from_config():
    model = SlotModel(tiny("llama"))
    config = FLyConfig(
        tree_verify=True, spd_k=9, branch_n=3, max_nodes_per_level=5, max_nodes_global=30
    )
    drafter = TreeDrafter.from_config(
        config.setup.drafter, DrafterContext(torch.device("cpu"), VOCAB, model=model)
    )
    assert (drafter.shape, drafter.model) == (TreeShape(9, 3, 5, 30), model)
    traits = config.setup.traits
    assert (traits.needs_model, traits.is_tree, traits.is_chain) == (True, True, False)
    others = [FLyConfig(**config.to_dict() | {key: 2}) for key in ("branch_n", "max_nodes_global")]
    assert len({each.fingerprint() for each in (config, *others)}) == 3


def test_has_no_settings_of_its_own():
    with pytest.raises(ConfigError, match="depth"):
        FLyConfig(tree_verify=True, drafter_settings={"depth": 3})
