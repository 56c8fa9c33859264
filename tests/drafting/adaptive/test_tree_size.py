"""Trees as large as pay: in virtual time, on tokens that are kept often, seldom, or by turns."""

import random
from types import SimpleNamespace

import pytest

from fly.drafting.adaptive.tree_size import FIRST_NODES, KeptKinds, TreePace
from fly.drafting.retrieval.draft_tree import DraftTree

LENGTH = 40  # tokens of a tree: two branches side by side, all of one source
PLAIN = 10.0  # virtual seconds of a plain round; a tree adds to it


class World:
    """Rounds whose trees take `by_token` seconds a token, of which one branch goes on being kept
    with a chance that hangs on the round."""

    def __init__(self, chance, by_token, num_rows=1, seed=0):
        self.chance, self.by_token = chance, by_token
        self.rng = random.Random(seed)
        self.now, self.round = 0.0, 0
        self.rows = [SimpleNamespace(ids=[0], key="") for _ in range(num_rows)]
        self.sizes = []
        self.slow_until = 0

    def tree(self):
        tree = DraftTree()
        ends = [-1, -1]
        for place in range(LENGTH):
            ends[place % 2], _ = tree.add(ends[place % 2], 100 + place % 2, "source")
        return tree

    def text(self, tree):
        """What the target says: the first branch as long as chance wants, then something else."""
        text, number = [], 0
        while self.rng.random() < self.chance(self.round):
            number += 1
            text.append(100)
        return [*text[: sum(token == 100 for token in tree.tokens)], 7]

    def run(self, pace, num_rounds):
        """Tokens per virtual second."""
        tokens, begin = 0, self.now
        for _ in range(num_rounds):
            pace.begin(self.rows)
            trees = [self.tree() for _ in self.rows]
            pace.cut(trees)
            for row, tree in zip(self.rows, trees, strict=True):
                new = self.text(tree)
                tokens += len(new)
                row.ids = row.ids + new
            size = max(map(len, trees))
            self.sizes.append(size)
            slowness = 20 if self.round < self.slow_until and size else 1
            self.now += slowness * (PLAIN + self.by_token * size)
            pace.end(self.rows)
            self.round += 1
        return tokens / (self.now - begin)


def pace_of(world):
    return TreePace(clock=lambda: world.now)


def best_fixed(chance, by_token):
    """The best rate of a row of all sizes that stay the same: every other token is of the branch
    that is kept."""
    rates = []
    for size in range(LENGTH + 1):
        gained = sum(chance**depth for depth in range((size + 1) // 2 + 1))
        rates.append(gained / (PLAIN + by_token * size))
    return max(rates)


@pytest.mark.parametrize(
    ("chance", "by_token", "num_rows"),
    [(0.05, 0.3, 1), (0.6, 0.0, 1), (0.6, 0.3, 1), (0.6, 2, 1), (0.95, 0.3, 1), (0.95, 0.3, 4)],
)
def test_against_the_best_size(chance, by_token, num_rows):
    world = World(lambda _: chance, by_token * num_rows, num_rows)
    pace = pace_of(world)
    world.run(pace, 150)
    got = world.run(pace, 700) / num_rows
    assert got > 0.9 * best_fixed(chance, by_token * num_rows)


def test_trees_that_cost_nothing_are_offered_whole():
    world = World(lambda _: 0.5, 0.0)
    world.run(pace_of(world), 300)
    assert sum(size == LENGTH for size in world.sizes[20:]) >= 0.98 * len(world.sizes[20:])


def test_the_first_trees_are_small():
    """Nothing is known of their cost."""
    world = World(lambda _: 0.9, 0.0)
    world.run(pace_of(world), 9)
    plain = [size for size in world.sizes if size == 0]
    trees = [size for size in world.sizes if size]
    assert len(plain) == 2  # one to warm up, one to time
    assert trees[:3] == [FIRST_NODES] * 3
    assert max(trees) == LENGTH


def test_trees_that_do_not_pay_cost_next_to_nothing():
    world = World(lambda _: 0.05, 3.0)
    assert world.run(pace_of(world), 1000) > 0.95 / PLAIN


def test_pays_again():
    """Behind a thousand rounds in which nothing was kept."""
    world = World(lambda turn: 0.0 if turn < 1000 else 0.95, 0.5)
    pace = pace_of(world)
    world.run(pace, 1000)
    assert world.sizes.count(0) > 800
    world.run(pace, 300)
    assert world.run(pace, 500) > 0.9 * best_fixed(0.95, 0.5)


def test_a_slow_spell_is_forgotten():
    """Something else had the machine when the first trees were timed."""
    world = World(lambda _: 0.9, 0.5)
    world.slow_until = 30
    pace = pace_of(world)
    world.run(pace, 300)
    assert world.run(pace, 500) > 0.9 * best_fixed(0.9, 0.5)
    assert pace.report()["probes"] > 0


def test_rounds_of_others_are_not_learned_from():
    """Of a bandit another arm offers, and every arm is told."""
    world = World(lambda _: 0.9, 0.5)
    pace = pace_of(world)
    world.run(pace, 10)
    before = pace.report()
    world.now += 1e6
    pace.end(world.rows)
    assert pace.report() == before
    assert pace.costs.times.plain(1) == PLAIN


def test_report():
    world = World(lambda _: 0.9, 0.5)
    pace = pace_of(world)
    assert pace.report() == {"rounds_by_tree_size": {}, "probes": 0}
    world.run(pace, 50)
    sizes = pace.report()["rounds_by_tree_size"]
    assert sum(sizes.values()) == 50
    assert list(sizes) == [str(size) for size in sorted(map(int, sizes))]


def test_no_rows_and_empty_trees():
    pace = TreePace(clock=lambda: 0.0)
    for rows in ([], [SimpleNamespace(ids=[1], key="")]):
        pace.begin(rows)
        pace.cut([DraftTree() for _ in rows])


def test_kinds_are_learned_behind_kept_tokens_alone():
    tree = DraftTree()
    first, _ = tree.add(-1, 5, "a")
    other, _ = tree.add(-1, 6, "a")
    tree.add(first, 7, "a")
    tree.add(other, 8, "b")
    assert tree.kinds == [("a", 0), ("a", 1), ("a", 0), ("b", 0)]
    kinds = KeptKinds()
    hoped = [kinds.probability(kind) for kind in tree.kinds]
    assert hoped == [1 / 2, 1 / 3, 1 / 2, 1 / 2]
    assert kinds.expected(tree) == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 6])
    for _ in range(100):
        kinds.note(tree, {first})
    # The first, not the one behind it.
    assert kinds.probability(("a", 0)) == pytest.approx(0.5, abs=0.01)
    assert kinds.probability(("a", 1)) < 0.02
    assert kinds.probability(("b", 0)) == 1 / 2  # stood behind a refused one
    for _ in range(2000):
        kinds.renew()
    assert kinds.probability(("a", 1)) == pytest.approx(1 / 3, abs=0.01)


def test_cut_and_path():
    tree = DraftTree()
    first, _ = tree.add(-1, 5)
    second, _ = tree.add(first, 6)
    tree.add(second, 7)
    assert tree.path([5, 6, 7, 8]) == [0, 1, 2]
    assert tree.path([6, 5]) == []
    tree.cut(2)
    assert (tree.tokens, tree.parents, len(tree.kinds)) == ([5, 6], [-1, 0], 2)
    assert tree.path([5, 6, 7, 8]) == [0, 1]
    tree.cut(0)
    assert len(tree) == 0
    assert tree.path([5]) == []
