"""N-grams of a growing text and their counts, in a trie of bounded size.  It is the retrieval half
of RACER (arXiv 2604.14885, section 3.2; code hkr04/RACER)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count

from fly.drafting.retrieval.draft_tree import DraftTree


class Node:
    """An n-gram."""

    __slots__ = ("children", "depth", "occurrences", "parent", "token")

    def __init__(self, parent: Node | None, token: int) -> None:
        """What `parent` is, and `token` after it; None for the empty one."""
        self.parent = parent
        self.token = token
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.occurrences = 0
        self.children: dict[int, Node] = {}


class NgramTrie:
    """N-grams of up to `max_ngram` tokens, the `max_nodes` that were used last.

    Differs from RACER: there windows of full length are put in, and the automaton's fail links are
    made once, after the prompt.  Here every n-gram counts from its first token on, and the states
    that fail links would lead to are kept as a list, which is right at any time.

    An n-gram is used whenever it lies among the last `max_ngram` tokens.  So one is never given up
    before those that it begins or ends: all that follows a suffix of the text follows the shorter
    ones too.
    """

    def __init__(self, max_ngram: int, max_nodes: int) -> None:
        """An empty text.

        Args:
            max_ngram: longest n-gram, tokens.
            max_nodes: of the trie, its root aside; max_ngram squared at least.
        """
        assert max_nodes >= max_ngram**2
        self.max_ngram = max_ngram
        self.max_nodes = max_nodes
        self.num_tokens = 0
        self.root = Node(None, -1)
        self._recent: OrderedDict[Node, None] = OrderedDict()  # the least recently used first
        # For each of the last tokens the n-grams that end with it, the shortest first.
        self._ends: deque[list[Node]] = deque(maxlen=max_ngram)

    @property
    def num_nodes(self) -> int:
        """N-grams that are known."""
        return len(self._recent)

    @property
    def suffixes(self) -> list[Node]:
        """The text's last n-grams, of 1 token, 2 tokens and so on: the automaton's state and those
        that its fail links lead to.
        """
        return self._ends[-1] if self._ends else []

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            ends: list[Node] = []
            for before in [self.root, *self.suffixes[: self.max_ngram - 1]]:
                node = before.children.get(token)
                if node is None:
                    node = self._new(before, token)
                self._recent.move_to_end(node)  # the next one needs room too
                node.occurrences += 1
                ends.append(node)
            self._ends.append(ends)
            self._touch()
            self.num_tokens += 1

    def _touch(self) -> None:
        """All that lies among the last tokens was used, long n-grams before their parts."""
        use = self._recent.move_to_end
        for depth in range(len(self._ends), 0, -1):
            for ago in range(1, len(self._ends) - depth + 2):
                use(self._ends[-ago][depth - 1])

    def _new(self, parent: Node, token: int) -> Node:
        """Another node; the one least recently used makes room."""
        if len(self._recent) >= self.max_nodes:
            oldest, _ = self._recent.popitem(last=False)
            assert oldest.parent is not None
            del oldest.parent.children[oldest.token]
        node = parent.children[token] = Node(parent, token)
        self._recent[node] = None
        return node

    def matches(self, min_depth: int) -> list[Node]:
        """The text's suffixes of at least `min_depth` tokens that were followed by something
        before, the longest first.
        """
        return [node for node in reversed(self.suffixes[min_depth - 1 :]) if node.children]

    def grow(self, tree: DraftTree, budget: int, min_depth: int, max_depth: int) -> None:
        """Add up to `budget` tokens to a tree: the most frequent continuations of the matches, no
        branch longer than `max_depth`.

        Of those equally frequent the nearer come first, then those after the longer match.  The
        shortest match has all continuations.
        """
        serial = count()  # where all is equal, the one seen first
        heap: list[tuple[int, int, int, int, int, list[Node]]] = []

        def offer(nodes: list[Node], place: int, depth: int) -> None:
            """Put what follows a branch's end, known after several matches, up for choice."""
            for token, child in nodes[-1].children.items():
                known = [node.children[token] for node in nodes[:-1] if token in node.children]
                known.append(child)
                matched = known[0].depth - depth
                heappush(heap, (-child.occurrences, depth, -matched, next(serial), place, known))

        matches = self.matches(min_depth)
        if matches:
            offer(matches, -1, 1)
        while heap and budget > 0:
            _, depth, unmatched, _, parent, nodes = heappop(heap)
            if depth > max_depth:
                continue
            source = ("text", (-unmatched).bit_length())
            place, is_new = tree.add(parent, nodes[-1].token, source)
            budget -= is_new
            offer(nodes, place, depth + 1)
