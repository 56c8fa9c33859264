"""Drafting without a draft model from two sources in one tree: what followed the same tokens
earlier in the text, and what the target thought would follow each token when it met it last.
Source: RACER (arXiv 2604.14885; defaults and breadths of the code, hkr04/RACER).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from fly.drafting.copy_logits import CopyLogits
from fly.drafting.draft_tree import DraftTree, proposal_of
from fly.drafting.ngram_trie import NgramTrie
from fly.drafting.protocol import (
    Choose,
    CommittedRow,
    Drafter,
    Parts,
    Proposal,
    greedy,
)
from fly.drafting.spec import DrafterSettings, DrafterSpec
from fly.drafting.tree_pacing import TreePace
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
        """Greedy trees of phrases that were said before."""
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
    """What is known of one row's text."""

    def __init__(self, settings: RetrievalSettings) -> None:
        """Nothing is known yet."""
        self.trie = NgramTrie(settings.max_ngram, settings.max_nodes)
        self.table = CopyLogits(settings.max_nodes)
        # Of the round that is not committed yet: its tree, and what was likeliest behind the last
        # committed token and behind each token of the tree.
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

    def __init__(
        self,
        settings: RetrievalSettings,
        k: int,
        device: torch.device,
        pace: TreePace | None = None,
    ) -> None:
        """Propose trees with branches of up to `k` tokens on `device`, as large as `pace` says."""
        self.settings = settings
        self.k = k
        self.pace = pace
        self._device = device
        self._rows: list[RowSources] = []

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        return RetrievalSettings

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: Parts) -> RetrievalDrafter:
        """`spd_k` is the longest branch.

        The text of a loose rule depends on what is offered, and shall not depend on the clock.
        """
        settings = spec.settings
        assert isinstance(settings, RetrievalSettings)
        is_paced = settings.draft_nodes is None and not parts.is_loose
        return cls(settings, spec.k, parts.device, TreePace() if is_paced else None)

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Index the new prompts.  A round that was given up for want of memory is forgotten."""
        if self.pace is not None:
            self.pace.give_up()
        del self._rows[first:]
        for row in rows[first:]:
            sources = RowSources(self.settings)
            sources.trie.extend(row.ids)
            self._rows.append(sources)

    def propose(
        self, rows: Sequence[CommittedRow], limits: Sequence[int], choose: Choose = greedy
    ) -> Proposal:
        """Continuations from the text first; what room they leave goes to the copied logits."""
        if self.pace is not None:
            self.pace.begin(rows)
        size = (self.settings.draft_nodes or MOST_NODES) - 1
        for sources, row, limit in zip(self._rows, rows, limits, strict=False):
            tree, depth = DraftTree(), min(self.k, limit)
            if depth > 0:
                sources.trie.grow(tree, size, self.settings.min_match, depth)
                room = size - len(tree)
                sources.table.grow(tree, row.ids[-1], self.settings.breadth, room, depth)
            sources.tree = tree
        trees = [sources.tree for sources in self._rows[: len(rows)]]
        if self.pace is not None:
            self.pace.cut(trees)
        return proposal_of(trees, self._device)

    def observe(self, proposal: Proposal, logits: Tensor, kept: Sequence[int]) -> None:
        """Copy what is likeliest behind every token that was verified."""
        breadth = min(self.settings.breadth, logits.shape[-1])
        if breadth == 0:
            return
        likeliest = logits.topk(breadth, -1).indices.tolist()  # [B, K+1, breadth]
        for sources, ids in zip(self._rows, likeliest, strict=False):
            sources.observe(ids[: len(sources.tree) + 1])

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Index what the rows gained."""
        if self.pace is not None:
            self.pace.end(rows)
        for sources, row in zip(self._rows, rows, strict=False):
            sources.commit(row.ids)

    def move(self, source: int, destination: int, length: int) -> None:
        """Row `source` takes the place of row `destination`."""
        self._rows[destination] = self._rows[source]

    def report(self) -> dict[str, Any]:
        """Rounds by their largest tree."""
        return {} if self.pace is None else self.pace.report()
