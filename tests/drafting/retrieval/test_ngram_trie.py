"""The automaton of n-grams equals searches through the whole text."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.retrieval.draft_tree import DraftTree
from fly.drafting.retrieval.ngram_trie import NgramTrie
from tests.models import ids_of

texts = st.lists(st.integers(0, 2), max_size=40)
sizes = st.integers(1, 5)
quick = settings(max_examples=200, derandomize=True, deadline=None)
ROOM = 10_000


def filled(ids, max_ngram, max_nodes=ROOM):
    trie = NgramTrie(max_ngram, max_nodes)
    trie.extend(ids)
    return trie


def known(trie):
    """Every n-gram and how often it occurred."""
    found, pending = {}, [((), trie.root)]
    while pending:
        path, node = pending.pop()
        for token, child in node.children.items():
            assert (child.token, child.parent, child.depth) == (token, node, node.depth + 1)
            longer = (*path, token)
            found[longer] = child.occurrences
            pending.append((longer, child))
    return found


def counted(ids, max_ngram):
    """The same by a search."""
    return Counter(
        tuple(ids[start : start + n])
        for n in range(1, max_ngram + 1)
        for start in range(len(ids) - n + 1)
    )


def path_of(node):
    path = ()
    while node.parent is not None:
        path, node = (node.token, *path), node.parent
    return path


@quick
@given(texts, sizes)
def test_counts(ids, max_ngram):
    trie = filled(ids, max_ngram)
    assert known(trie) == counted(ids, max_ngram)
    assert trie.num_nodes == len(known(trie))
    assert trie.num_tokens == len(ids)


@quick
@given(texts, sizes)
def test_in_pieces_or_at_once(ids, max_ngram):
    trie = NgramTrie(max_ngram, ROOM)
    for start in range(0, len(ids), 3):
        trie.extend(ids[start : start + 3])
    assert known(trie) == known(filled(ids, max_ngram))


@quick
@given(texts, sizes)
def test_states_are_the_suffixes(ids, max_ngram):
    """Of a full automaton, and of one that had to forget."""
    for max_nodes in (ROOM, max_ngram**2):
        trie = filled(ids, max_ngram, max_nodes)
        longest = min(max_ngram, len(ids))
        want = [tuple(ids[len(ids) - n :]) for n in range(1, longest + 1)]
        assert [path_of(node) for node in trie.suffixes] == want


@quick
@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 4), st.integers(0, 12))
def test_what_is_forgotten_was_used_least_recently(ids, max_ngram, more):
    max_nodes = max_ngram**2 + more
    trie = filled(ids, max_ngram, max_nodes)
    found, full = known(trie), counted(ids, max_ngram)
    assert trie.num_nodes == len(found) <= max_nodes
    assert all(0 < times <= full[ngram] for ngram, times in found.items())
    # Neither beginnings nor ends of what is known are forgotten.
    assert all(ngram[:-1] in found and ngram[1:] in found for ngram in found if len(ngram) > 1)
    last_use = {
        ngram: min(len(ids), end + max_ngram - len(ngram))
        for ngram in full
        for end in range(len(ngram), len(ids) + 1)
        if tuple(ids[end - len(ngram) : end]) == ngram
    }
    forgotten = [last_use[ngram] for ngram in full if ngram not in found]
    if forgotten:
        assert trie.num_nodes == max_nodes
        assert max(forgotten) <= min(last_use[ngram] for ngram in found)


def continuations(ids, max_ngram, min_depth, max_depth):
    """From the definition: what followed the last `min_depth` tokens before, with its place in the
    order: occurrences, length, tokens that match before it."""
    full, ranked = counted(ids, max_ngram), {}
    if len(ids) < min_depth:
        return ranked
    ending = tuple(ids[len(ids) - min_depth :])
    for ngram in full:
        path = ngram[min_depth:]
        if ngram[:min_depth] == ending and path and len(path) <= max_depth:
            matched = max(
                n
                for n in range(min_depth, min(len(ids), max_ngram - len(path)) + 1)
                if (*ids[len(ids) - n :], *path) in full
            )
            ranked[path] = (-full[ngram], len(path), -matched)
    return ranked


def paths_of(tree):
    paths = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        assert parent < len(paths)
        paths.append((*paths[parent], token) if parent >= 0 else (token,))
    assert len(set(paths)) == len(paths)
    return paths


@quick
@given(texts, st.integers(2, 6), st.integers(1, 3), st.integers(0, 5), st.integers(0, 30))
def test_grows_by_the_most_frequent_continuations(ids, max_ngram, min_depth, max_depth, budget):
    tree = DraftTree()
    filled(ids, max_ngram).grow(tree, budget, min_depth, max_depth)
    paths = paths_of(tree)
    ranked = continuations(ids, max_ngram, min_depth, max_depth)
    assert set(paths) <= set(ranked)
    assert [ranked[path] for path in paths] == sorted(ranked.values())[:budget]


@quick
@given(st.lists(st.integers(0, 3), max_size=80), st.integers(0, 30))
def test_grows_rightly_after_forgetting(ids, budget):
    tree = DraftTree()
    filled(ids, 4, 16).grow(tree, budget, 2, 9)
    assert set(paths_of(tree)) <= set(continuations(ids, 4, 2, 9))


CASES = {  # text, least match, budget, branches in their order
    "what followed": ("abcdXab", 2, 9, ["c", "cd", "cdX", "cdXa", "cdXab"]),
    "the frequent first": ("abcabdabdab", 2, 3, ["d", "da", "dab"]),
    "a single token matches nothing": ("bcdXb", 2, 9, []),
    "unless it may": ("bcdXb", 1, 2, ["c", "cd"]),
    "the longer match first": ("xabcyabd-xab", 2, 2, ["c", "d"]),
    "and in any order": ("yabdxabc-yab", 2, 2, ["d", "c"]),
    "nothing known": ("abcdef", 2, 9, []),
    "no budget": ("abcab", 2, 0, []),
    "empty": ("", 2, 9, []),
}


@pytest.mark.parametrize(("text", "least", "budget", "want"), CASES.values(), ids=CASES)
def test_grow(text, least, budget, want):
    tree = DraftTree()
    filled(ids_of(text), 10).grow(tree, budget, least, 5)
    assert ["".join(map(chr, path)) for path in paths_of(tree)] == want


def test_what_another_source_offered_costs_nothing():
    tree = DraftTree()
    tree.add(-1, ord("c"))
    filled(ids_of("abcdXab"), 10).grow(tree, 2, 2, 9)
    assert ["".join(map(chr, path)) for path in paths_of(tree)] == ["c", "cd", "cdX"]
