"""What decoders share that were made of one another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fly.decoding.rows import Scheduler
from fly.decoding.self_draft import derive_draft
from fly.decoding.serving import ServedModels, load_draft
from fly.drafting import DrafterSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class SharedModels:
    """What decoders share that were made of one another: the served models, and whose turn it
    is."""

    pair: ServedModels
    tokenizer: PreTrainedTokenizerBase
    has_draft: bool  # was given one, whether or not it can draft
    draft_tokenizer: PreTrainedTokenizerBase | None = None  # None: the same
    share_prefixes: bool = True
    shares_ids: bool = True  # draft and target mean the same by an id
    end_ids: frozenset[int] = frozenset()  # the caller's
    widest: int = 0  # rows that the caches have been used for
    owner: Scheduler | None = None  # of the rows, both caches' and the drafters'
    # Pairs with a draft made of the target, by the settings that it was made by.
    derived: dict[str, ServedModels] = field(default_factory=dict)

    def pair_for(self, drafter: DrafterSpec) -> ServedModels:
        """The models as a drafter needs them; a draft made of the target is made once."""
        name, traits = drafter.name, drafter.traits
        if not traits.derives_model or not self.pair.can_verify:
            return self.pair.with_drafter(name, needs_draft=traits.needs_model)
        key = json.dumps(drafter.drafter_settings, sort_keys=True)
        if key not in self.derived:
            alone = self.pair.with_drafter(name, needs_draft=False)
            draft = derive_draft(alone.source, self.tokenizer, drafter)
            self.derived[key] = load_draft(alone, draft, share_prefixes=self.share_prefixes)
        return self.derived[key]

    def clear(self) -> None:
        """Give up what all caches hold."""
        self.widest = 0
        for pair in (self.pair, *self.derived.values()):
            pair.clear()
