"""Token-level intersection, for drawing only from common tokens.  The draft's probabilities of
other tokens are masked before anything is chosen, so q is a distribution over the target's
vocabulary and acceptance by p/q is exact.  Source: TLI, arXiv 2502.05202."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fly.drafting.cross_vocab.retokenize import Exchange

# Instead of minus infinity: a request may forbid every token that both have, and the softmax of a
# row of nothing but minus infinity is not a number.  Its exponential is 0 all the same.
OUTSIDE = -1e30


class Intersection:
    """The tokens of target and draft with the same bytes, and special tokens that are each
    other's counterpart.
    """

    def __init__(self, exchange: Exchange, sizes: tuple[int, int], device: torch.device) -> None:
        """Compare the vocabularies.

        Args:
            exchange: both tokenizers.
            sizes: of the target model's vocabulary and the draft model's: ids after them are no
                output of the model.
            device: of the draft.
        """
        self._exchange = exchange
        target, draft = exchange.target, exchange.draft
        spelt = {
            target.by_bytes[key]: index
            for key, index in draft.by_bytes.items()
            if key in target.by_bytes
        }
        # Of the draft's tokens, the share that the target has as well.
        self.overlap = len(spelt) / max(1, len(draft.by_bytes))
        special = {
            own: other
            for own, other in exchange.to_draft.items()
            if exchange.to_target.get(other) == own
        }
        # A special token's counterpart may stand for something in its own tokenizer.
        taken = set(spelt.values())
        both = spelt | {own: other for own, other in special.items() if other not in taken}
        self._both = {
            own: other for own, other in both.items() if own < sizes[0] and other < sizes[1]
        }
        self._size = sizes[0]
        self._target_ids = torch.tensor([*self._both], dtype=torch.int64, device=device)
        self._draft_ids = torch.tensor([*self._both.values()], dtype=torch.int64, device=device)
        self._to_draft = torch.full((sizes[0],), exchange.opener, device=device)
        self._to_draft[self._target_ids] = self._draft_ids
        self._spelt: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """Tokens that both have."""
        return len(self._both)

    def widen(self, logits: Tensor) -> Tensor:
        """The draft's logits [..., V_draft] in the target's order, [..., V_target] float32."""
        wide = logits.new_full((*logits.shape[:-1], self._size), OUTSIDE, dtype=torch.float32)
        wide[..., self._target_ids] = logits[..., self._draft_ids].float()
        return wide

    def to_draft(self, tokens: Tensor) -> Tensor:
        """The draft's ids of tokens that both have."""
        return self._to_draft[tokens]

    def spell(self, index: int) -> list[int]:
        """One token of the target in the draft's: its counterpart, or what its bytes are encoded
        as; none for a special token without counterpart.
        """
        if index not in self._spelt:
            exchange = self._exchange
            if index in self._both:
                found = [self._both[index]]
            elif index in exchange.target.special:
                own = exchange.to_draft.get(index)
                found = [] if own is None else [own]
            else:
                found = [token for token, _ in exchange.draft.encode(exchange.target[index] or b"")]
            self._spelt[index] = found
        return self._spelt[index]

    def opening(self, first: int | None) -> list[int]:
        """What the draft reads before the tokens of a text whose first one is `first`."""
        prefix = self._exchange.draft.prefix
        return [] if first is not None and self.spell(first) == prefix else prefix

    @property
    def opener(self) -> int:
        """The draft's token where it would have none to read."""
        return self._exchange.opener


class Mapped:
    """One row as the draft reads it, token by token: `ids`, `index` and `key`, like any row."""

    is_whole = True

    def __init__(self, intersection: Intersection, index: int = 0, key: str = "") -> None:
        self._intersection = intersection
        self._num_known = 0
        self.index, self.key = index, key
        self.ids: list[int] = []

    @property
    def settled(self) -> int:
        """Tokens of the draft that no more text will change: all of them."""
        return len(self.ids)

    def update(self, ids: Sequence[int]) -> int:
        """Take over what the row gained; how many tokens stayed as they were."""
        shared = self._intersection
        new = [token for index in ids[self._num_known :] for token in shared.spell(index)]
        before = self.ids
        if not before:
            new = shared.opening(ids[0] if ids else None) + new or [shared.opener]
        self._num_known = len(ids)
        self.ids = before + new
        return len(before)
