"""Retrieval drafting without a draft model, from two sources in one tree.  They are what followed
the same tokens earlier in the text, and the target's likeliest followers of each token when it came
last.  Source: RACER (arXiv 2604.14885; defaults and breadths of the code, hkr04/RACER)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from fly.drafting.adaptive.tree_size import TreePace
from fly.drafting.base import (
    Choose,
    Drafter,
    DrafterContext,
    Proposal,
    Rows,
    greedy,
)
from fly.drafting.per_request import PerRequest
from fly.drafting.retrieval.copy_logits import CopyLogits
from fly.drafting.retrieval.draft_tree import DraftTree, proposal_of
from fly.drafting.retrieval.ngram_trie import NgramTrie
from fly.drafting.settings import DrafterSettings, DrafterSpec
from fly.settings import Traits

MOST_NODES = 64  # as in the code; a target that is bound by computing wants fewer


class RetrievalSettings(DrafterSettings):
    """Sizes of the two sources and of their tree."""

    max_ngram: int = Field(10, ge=2, le=32, description="Longest n-gram that is kept, tokens.")
    max_nodes: int = Field(
        10_000,
        ge=4,
        description="N-grams that are kept per row, the last used, and tokens with their likeliest "
        "next ids, the last met; max_ngram squared at least.",
    )
    draft_nodes: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="Tokens that the target reads in a round at most, the last committed one "
        f"included; null: as many as pay, up to {MOST_NODES}.",
    )
    breadth: int = Field(
        8,
        ge=0,
        le=64,
        description="Likeliest next ids that are kept per token; 0 leaves this source out.",
    )
    min_match: int = Field(
        2, ge=1, description="Tokens that must match before n-grams continue them."
    )

    @property
    def traits(self) -> Traits:
        """Greedy trees of phrases that stood before."""
        return Traits(is_chain=False, copies_context=True, is_tree=True, temperatures="greedy")

    @model_validator(mode="after")
    def _fit(self) -> RetrievalSettings:
        """Refuse sizes that contradict one another."""
        if self.max_nodes < self.max_ngram**2:
            raise ValueError(
                f"max_nodes is {self.max_nodes}, but n-grams of {self.max_ngram} tokens need "
                f"{self.max_ngram**2}"
            )
        if self.min_match >= self.max_ngram:
            raise ValueError(
                f"min_match is {self.min_match}, so n-grams of {self.max_ngram} tokens continue "
                "nothing"
            )
        return self


class RowSources:
    """Both sources for one row's text."""

    def __init__(self, settings: RetrievalSettings, ids: Sequence[int]) -> None:
        """Read the prompt."""
        self.trie = NgramTrie(settings.max_ngram, settings.max_nodes)
        self.trie.extend(ids)
        self.table = CopyLogits(settings.max_nodes)
        # Of the round that is not committed yet: its tree, and what was likeliest after the last
        # committed token and after each token of the tree.
        self.tree = DraftTree()
        self.seen: list[list[int]] = []

    def observe(self, likeliest: list[list[int]]) -> None:
        """The target read the last committed token and the tree.  [1 + tree] lists of ids."""
        self.seen = likeliest
        self.table.note(self.trie.suffixes[0].token, likeliest[0])
        for token, ids in zip(self.tree.tokens, likeliest[1:], strict=False):
            self.table.note(token, ids)

    def commit(self, ids: Sequence[int]) -> None:
        """The text is `ids` now.  What was met on the way that it took was met last."""
        new = ids[self.trie.num_tokens :]
        if self.seen:
            for place in self.tree.path(new):
                self.table.note(self.tree.tokens[place], self.seen[place + 1])
        self.trie.extend(new)
        self.tree, self.seen = DraftTree(), []


class RetrievalDrafter(Drafter):
    """N-grams and copied logits in one tree."""

    own_settings = RetrievalSettings

    def __init__(
        self,
        settings: RetrievalSettings,
        k: int,
        pace: TreePace | None = None,
    ) -> None:
        """Propose trees with branches of up to `k` tokens, as large as `pace` lets."""
        self.settings = settings
        self.k = k
        self.pace = pace
        self._rows = PerRequest(lambda row: RowSources(settings, row.ids))

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> RetrievalDrafter:
        """`spd_k` is the longest branch.

        The text of a loose rule depends on what is offered, and shall not depend on the clock.
        """
        settings = spec.settings
        assert isinstance(settings, RetrievalSettings)
        is_paced = settings.draft_nodes is None and not parts.is_loose
        return cls(settings, spec.k, TreePace() if is_paced else None)

    def prefill(self, rows: Rows) -> None:
        """Index the new prompts."""
        for row in rows:
            self._rows.of(row)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Continuations from the text first; what room they leave goes to the copied logits."""
        if self.pace is not None:
            self.pace.begin(rows)
        size = (self.settings.draft_nodes or MOST_NODES) - 1
        trees = []
        for row, limit in zip(rows, limits, strict=True):
            sources = self._rows.of(row)
            tree, depth = DraftTree(), min(self.k, limit)
            if depth > 0:
                sources.trie.grow(tree, size, self.settings.min_match, depth)
                room = size - len(tree)
                sources.table.grow(tree, row.ids[-1], self.settings.breadth, room, depth)
            sources.tree = tree
            trees.append(tree)
        if self.pace is not None:
            self.pace.cut(trees)
        return proposal_of(trees)

    def observe(self, rows: Rows, proposal: Proposal, logits: Tensor, kept: Sequence[int]) -> None:
        """Copy what is likeliest after every token that was verified."""
        breadth = min(self.settings.breadth, logits.shape[-1])
        if breadth == 0:
            return
        likeliest = logits.topk(breadth, -1).indices.tolist()  # [B, K+1, breadth]
        for row, ids in zip(rows, likeliest, strict=True):
            sources = self._rows.of(row)
            sources.observe(ids[: len(sources.tree) + 1])

    def commit(self, rows: Rows) -> None:
        """Index what the rows gained."""
        if self.pace is not None:
            self.pace.end(rows)
        for row in rows:
            self._rows.of(row).commit(row.ids)

    def forget(self, index: int) -> None:
        """Its sources are not needed.  A round that is not committed was given up."""
        self._rows.pop(index, None)
        if self.pace is not None:
            self.pace.give_up()

    def report(self) -> dict[str, Any]:
        """Rounds by their largest tree."""
        return {} if self.pace is None else self.pace.report()
