"""The registry of drafters, which propose the next tokens.  A drafter is one file and one line in
the table here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fly.registry import Registry, lazy_names

if TYPE_CHECKING:
    from fly.drafting.base import (
        Choose,
        Drafter,
        DrafterContext,
        DraftModel,
        Proposal,
        StopInfo,
        TreeModel,
    )
    from fly.drafting.settings import DrafterSettings, DrafterSpec
    from fly.drafting.tree_mask import TreeMask

__all__ = [
    "Choose",
    "DraftModel",
    "Drafter",
    "DrafterContext",
    "DrafterSettings",
    "DrafterSpec",
    "Proposal",
    "StopInfo",
    "TreeMask",
    "TreeModel",
    "drafters",
]

drafters: Registry[Drafter] = Registry(
    "drafter",
    {
        "model": "fly.drafting.chain:ModelDrafter",
        "ngram": "fly.drafting.ngram:NgramDrafter",
        "multilevel": "fly.drafting.multilevel:MultilevelDrafter",
        "none": "fly.drafting.none:NoDrafter",
        "suffix": "fly.drafting.suffix:SuffixDrafter",
        "tree": "fly.drafting.tree:TreeDrafter",
        "other_tokenizer": "fly.drafting.cross_vocab.other_tokenizer:OtherTokenizerDrafter",
        "self": "fly.drafting.self_draft:SelfDrafter",
        "retrieval": "fly.drafting.retrieval.retrieval:RetrievalDrafter",
        "bandit": "fly.drafting.adaptive.bandit:BanditDrafter",
    },
    # Without torch: what most configurations name is checked by these alone.
    settings={
        "model": "fly.drafting.settings:ChainSettings",
        "multilevel": "fly.drafting.settings:MultilevelSettings",
        "none": "fly.drafting.settings:PlainSettings",
    },
)

__getattr__ = lazy_names(
    "fly.drafting",
    {
        "fly.drafting.base": (
            *("Choose", "DraftModel", "Drafter", "DrafterContext"),
            *("Proposal", "StopInfo", "TreeModel"),
        ),
        "fly.drafting.settings": ("DrafterSettings", "DrafterSpec"),
        "fly.drafting.tree_mask": ("TreeMask",),
    },
)
