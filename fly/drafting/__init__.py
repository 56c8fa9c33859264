"""The registry of drafters, which propose the next tokens.  A drafter is one file and one line in
the table here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fly.registry import Registry

if TYPE_CHECKING:
    from fly.drafting.base import (
        Choose,
        Drafter,
        DrafterContext,
        DraftModel,
        Proposal,
        StopInfo,
        TreeMask,
        TreeModel,
    )
    from fly.drafting.settings import DrafterSettings, DrafterSpec

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

_HOMES = {
    "Choose": "fly.drafting.base",
    "DraftModel": "fly.drafting.base",
    "Drafter": "fly.drafting.base",
    "DrafterSettings": "fly.drafting.settings",
    "DrafterSpec": "fly.drafting.settings",
    "StopInfo": "fly.drafting.base",
    "DrafterContext": "fly.drafting.base",
    "Proposal": "fly.drafting.base",
    "TreeMask": "fly.drafting.base",
    "TreeModel": "fly.drafting.base",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first used: the table alone needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fly.drafting' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
