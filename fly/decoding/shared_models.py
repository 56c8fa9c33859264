"""What decoders share that were made of one another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fly.config import FLyConfig
from fly.decoding.rows import Scheduler
from fly.decoding.self_draft import derive_draft
from fly.decoding.serving import Pair, serve_draft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class SharedModels:
    """What decoders share that were made of one another: the served models, and whose turn it
    is."""

    pair: Pair
    tokenizer: PreTrainedTokenizerBase
    has_draft: bool  # was given one, whether or not it can draft
    draft_tokenizer: PreTrainedTokenizerBase | None = None  # None: the same
    share_prefixes: bool = True
    shares_ids: bool = True  # draft and target mean the same by an id
    end_ids: frozenset[int] = frozenset()  # the caller's
    widest: int = 0  # rows that the caches have been used for
    owner: Scheduler | None = None  # of the rows, both caches' and the drafters'
    # Pairs with a draft made of the target, by the settings that it was made by.
    derived: dict[str, Pair] = field(default_factory=dict)

    def pair_for(self, config: FLyConfig) -> Pair:
        """The models as a drafter needs them; a draft made of the target is made once."""
        name, is_derived = config.drafter_name, config.drafter_traits.derives_model
        if not is_derived or not self.pair.can_verify:
            return self.pair.with_drafter(name, needs_draft=config.needs_draft)
        key = json.dumps(config.drafter_settings, sort_keys=True)
        if key not in self.derived:
            alone = self.pair.with_drafter(name, needs_draft=False)
            draft = derive_draft(alone.source, self.tokenizer, config)
            self.derived[key] = serve_draft(alone, draft, share_prefixes=self.share_prefixes)
        return self.derived[key]

    def clear(self) -> None:
        """Give up what all caches hold."""
        self.widest = 0
        for pair in (self.pair, *self.derived.values()):
            pair.clear()
