"""The drafter for a draft model with another tokenizer.  Either it decodes its own tokens and their
text is encoded with the target's tokenizer (retokenize.py), or it draws among the tokens that both
have (intersect.py).  Sources: transformers' universal assisted decoding; TLI, arXiv 2502.05202."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from fly.drafting.base import (
    Choose,
    CommittedRow,
    Drafter,
    DrafterContext,
    DraftModel,
    Proposal,
    Rows,
    greedy,
)
from fly.drafting.chain import ModelDrafter
from fly.drafting.cross_vocab.intersect import Intersection, Mapped
from fly.drafting.cross_vocab.retokenize import Exchange, Reencoded
from fly.drafting.cross_vocab.token_bytes import TokenBytes
from fly.drafting.draft_cache import DraftReader
from fly.drafting.per_request import PerRequest
from fly.drafting.settings import DrafterSettings, DrafterSpec
from fly.errors import ConfigError, FLyWarning
from fly.settings import Traits


class OtherTokenizerSettings(DrafterSettings):
    """How the two vocabularies are brought together."""

    method: Literal["auto", "reencode", "intersect"] = Field(
        "auto",
        description="reencode: the draft's text is encoded anew; its tokens count as certain. "
        "intersect: the draft draws among the tokens that both have. auto: intersect where they "
        "have min_overlap in common, else reencode.",
    )
    lookbehind: int = Field(
        10, ge=4, description="reencode: committed tokens that are encoded with what follows them."
    )
    extra_tokens: int = Field(
        1,
        ge=0,
        description="reencode: tokens drafted above spd_k, since the last may be cut off in the "
        "middle of one of the target's.",
    )
    min_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="auto: share of the draft's vocabulary that the target must have as well. "
        "The draft never trained on texts without the rest.",
    )

    @property
    def traits(self) -> Traits:
        """Needs a draft model.  Whether it gives probabilities is known before the tokenizers are
        only where the method is named; and text encoded anew may end otherwise where it is shorter.
        """
        draws = self.method == "intersect"
        return Traits(needs_model=True, gives_probs=draws, is_chain=draws, own_tokenizer=True)


# A row as the draft reads it.
Side: TypeAlias = Reencoded | Mapped


@dataclass(frozen=True)
class _Begun:
    """The part of a row that will not change."""

    ids: list[int]
    index: int
    key: str


class OtherTokenizerDrafter(Drafter):
    """The draft model's continuation in the target's tokens, by one of the two methods."""

    own_settings = OtherTokenizerSettings

    def __init__(
        self,
        model: DraftModel,
        k: int,
        exchange: Exchange,
        shared: Intersection | None,
        *,
        extra: int = 0,
        reader: DraftReader | None = None,
    ) -> None:
        """Propose `k` of the target's tokens.

        Args:
            model: reads and writes the draft's tokens.
            k: of the target's tokens.
            exchange: both tokenizers.
            shared: what they have in common, to draw from; None: the draft decodes its own tokens.
            extra: tokens decoded above k, if it does.
            reader: as in CachedDrafter.
        """
        self.k = k
        self.shared = shared
        self._exchange = exchange
        self._extra = extra
        self._chain = ModelDrafter(model, k + extra, reader)
        self._sides = PerRequest(self._new_side)
        # By request, of the last round: what the draft has read of its own.
        self._drafted: dict[int, list[int]] = {}

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> OtherTokenizerDrafter:
        """Choose the method.

        Raises:
            ConfigError: a tokenizer is of no known kind, or they have nothing in common to draw
                from.

        Warns:
            FLyWarning: they have little in common to draw from.
        """
        settings = spec.settings
        assert parts.model is not None
        assert isinstance(settings, OtherTokenizerSettings)
        target = TokenBytes(parts.tokenizer, "target")
        draft = TokenBytes(parts.draft_tokenizer, "draft")
        exchange = Exchange(target, draft, settings.lookbehind)
        shared = _choose(settings, exchange, parts)
        extra = settings.extra_tokens if shared is None else 0
        reader = DraftReader.of(parts)
        return cls(parts.model, spec.k, exchange, shared, extra=extra, reader=reader)

    def _new_side(self, row: CommittedRow) -> Side:
        side: Side
        if self.shared is None:
            side = Reencoded(self._exchange, row.index, row.key)
        else:
            side = Mapped(self.shared, row.index, row.key)
        side.update(row.ids)
        return side

    def prefill(self, rows: Rows) -> None:
        """Read the new prompts, but for what their answers may still change."""
        sides = [self._sides.of(row) for row in rows]
        self._chain.prefill(
            [_Begun(side.ids[: side.settled + 1], side.index, side.key) for side in sides]
        )

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Draft, and give it in the target's tokens.  What is encoded anew is the draft's greedy
        text: it is certain, whatever `choose` is.
        """
        if any(row.index not in self._sides for row in rows):
            self.prefill(rows)
        sides = [self._sides[row.index] for row in rows]
        limits = [min(self.k, limit) for limit in limits]
        if self.shared is not None:
            return self._draw(sides, self.shared, limits, choose)
        wanted = [
            limit + self._extra if limit and side.is_whole else 0
            for side, limit in zip(sides, limits, strict=True)
        ]
        proposal = self._chain.propose(sides, wanted)
        drafted = self._note(sides, proposal, wanted)
        translated = [
            side.translate(ids[:length], limit) if isinstance(side, Reencoded) and length else []
            for side, ids, length, limit in zip(
                sides, drafted, proposal.host_lengths, limits, strict=True
            )
        ]
        offered = Proposal.from_lists(translated)
        return replace(offered, draft_forwards=proposal.draft_forwards)

    def _draw(
        self, sides: Sequence[Side], shared: Intersection, limits: Sequence[int], choose: Choose
    ) -> Proposal:
        """Let `choose` draw from the target's vocabulary, with the draft's logits in its order."""
        device = self._chain.model.device
        tokens = [torch.empty(len(limits), 0, dtype=torch.int64, device=device)]

        def translated(
            logits: Tensor, places: Sequence[int], drafted: Callable[[], Sequence[Sequence[int]]]
        ) -> tuple[Tensor, Tensor | None]:
            wide = shared.widen(logits)
            chosen, probs = choose(wide, places, lambda: torch.cat(tokens, 1).tolist())
            tokens.append(chosen)
            return shared.to_draft(chosen), probs

        proposal = self._chain.propose(sides, limits, translated)
        self._note(sides, proposal, limits)
        return replace(proposal, ids=torch.cat(tokens, 1))

    def _note(
        self, sides: Sequence[Side], proposal: Proposal, limits: Sequence[int]
    ) -> list[list[int]]:
        """Keep in mind what the draft has read of its own; all that it drafted."""
        drafted: list[list[int]] = proposal.ids.tolist()
        self._drafted = {
            side.index: ids[:-1] if limit else []
            for side, ids, limit in zip(sides, drafted, limits, strict=True)
        }
        return drafted

    def commit(self, rows: Rows) -> None:
        """What was refused, or is written otherwise now, is read anew."""
        kept = []
        for row in rows:
            side = self._sides[row.index]
            before = len(side.ids)
            count = side.update(row.ids)
            if count == before:
                pairs = zip(self._drafted[row.index], side.ids[before:], strict=False)
                count += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            kept.append(count)
        self._chain.reader.keep(rows, kept)

    def forget(self, index: int) -> None:
        """Neither its text in the draft's tokens nor its keys and values are needed."""
        self._sides.pop(index, None)
        self._chain.forget(index)

    def report(self) -> dict[str, Any]:
        """The method, and how many tokens it draws from."""
        if self.shared is None:
            return {"method": "reencode"}
        return {"method": "intersect", "common_tokens": len(self.shared)}


def _choose(
    settings: OtherTokenizerSettings, exchange: Exchange, parts: DrafterContext
) -> Intersection | None:
    """What to draw from, or None for encoding anew."""
    if settings.method == "reencode" or parts.model is None:
        return None
    draft_size = getattr(parts.model, "vocab_size", len(exchange.draft.vocabulary))
    shared = Intersection(exchange, (parts.vocab_size, draft_size), parts.model.device)
    if settings.method == "auto":
        return shared if shared.overlap >= settings.min_overlap else None
    if not shared.overlap:
        raise ConfigError(
            "drafter_settings: method is 'intersect', but the tokenizers of target and draft have "
            "no token in common",
            fix="set method to 'reencode'",
        )
    if shared.overlap < settings.min_overlap:
        warnings.warn(
            f"of the draft's tokens the target has {shared.overlap:.0%}, so the draft is held to "
            "few of the tokens that it knows; method 'reencode' may draft better",
            FLyWarning,
            stacklevel=2,
        )
    return shared
