"""The table of copied logits: latest occurrence, breadth first, with a quota per node."""

import pytest

from fly.drafting.retrieval.copy_logits import CopyLogits
from fly.drafting.retrieval.draft_tree import DraftTree
from tests.drafting.retrieval.test_ngram_trie import paths_of

ARITY = 4


def table(size=2000, arity=ARITY):
    """Token t is followed by 4 t + 1, ..., 4 t + 4."""
    filled = CopyLogits(100_000)
    for token in range(size):
        filled.note(token, [arity * token + step for step in range(1, arity + 1)])
    return filled


def grown(source, budget, breadth=ARITY, max_depth=99, last=0, tree=None):
    tree = DraftTree() if tree is None else tree
    source.grow(tree, last, breadth, budget, max_depth)
    return paths_of(tree)


def leaves(paths):
    return {path for path in paths if not any(p[:-1] == path for p in paths)}


def test_the_published_tree():
    """Figure 9 of the paper: 21 nodes of a 4-ary table, the root included."""
    assert leaves(grown(table(), 20)) == {
        (4, 17),
        (1, 5, 21),
        (1, 5, 22),
        (1, 6, 25),
        (1, 7, 29),
        (1, 8, 33),
        (2, 9, 37),
        (2, 10, 41),
        (3, 13, 53),
    }


def children(path, quota):
    """From the definition: the quotas of a node's children."""
    start = quota if not path else quota // 2
    return [max(1, start >> place) for place in range(quota)]


@pytest.mark.parametrize("breadth", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [0, 1, 7, 63, 200])
def test_breadth_first_with_quotas(breadth, budget):
    source = table(60_000, 8)
    want, queue = [], [((), 0, breadth)]
    while queue and len(want) < budget:
        path, token, quota = queue.pop(0)
        for place, share in enumerate(children(path, quota)):
            child = 8 * token + place + 1
            want.append((*path, child))
            queue.append((want[-1], child, share))
        if len(path) == 5:  # tokens behind the table follow nothing
            break
    got = grown(source, budget, breadth, max_depth=5)
    assert got == [path for path in want if len(path) <= 5][:budget]
    assert len(got) == budget or len(got) == len([path for path in want if len(path) <= 5])


@pytest.mark.parametrize("max_depth", [0, 1, 2, 3])
def test_branches_end_at_the_limit(max_depth):
    paths = grown(table(), 63, max_depth=max_depth)
    assert max(map(len, paths), default=0) == max_depth
    if max_depth == 1:
        assert paths == [(1,), (2,), (3,), (4,)]


def test_the_latest_occurrence_counts():
    source = CopyLogits(100_000)
    assert list(source[5]) == []
    source.note(5, [1, 2])
    source.note(5, [3, 4])
    assert list(source[5]) == [3, 4]
    assert grown(source, 9, last=5) == [(3,), (4,)]


def test_tokens_that_were_not_met_end_a_branch():
    source = CopyLogits(100_000)
    source.note(0, [1, 2, 3, 4])
    assert grown(source, 9) == [(1,), (2,), (3,), (4,)]
    assert grown(source, 9, last=7) == []


def test_what_another_source_offered_costs_nothing_and_is_continued():
    tree = DraftTree()
    place, _ = tree.add(-1, 2)
    tree.add(place, 50)
    paths = grown(table(), 5, tree=tree)
    assert paths == [(2,), (2, 50), (1,), (3,), (4,), (1, 5), (1, 6)]
    assert (2, 9) in grown(table(), 4, tree=tree)


def test_a_token_that_follows_itself():
    source = CopyLogits(100_000)
    source.note(3, [3, 4])
    want = [(3,), (4,), (3, 3), (3, 4), (3, 3, 3), (3, 3, 3, 3)]
    assert grown(source, 6, breadth=2, last=3) == want


def test_tokens_met_last_are_kept():
    source = CopyLogits(3)
    for token in (1, 2, 3, 1, 4):
        source.note(token, [token + 10])
    assert len(source) == 3
    assert [list(source[token]) for token in (1, 2, 3, 4)] == [[11], [], [13], [14]]
