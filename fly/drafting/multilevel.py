"""Multi-level drafting: guesses from what a row's text, and its draft, said before, verified by the
draft model, so that its own continuation is found in fewer forwards.  Source: the released FLy code
(AMD-AGI/FLy, 6667ae8).  Differs: what the draft said in earlier rounds is looked up, too; guesses
are as long as they pay (guessing.py), and without one the draft takes a plain step (there: filler
tokens, or the guess before); short texts are looked up with shorter n-grams; a suffix automaton may
take the n-grams' place.  With earliest matches and guess_cost 0 guesses are the released code's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fly.drafting.guessing import Guesser, MakeText, NgramText, RecentText, SuffixText
from fly.drafting.levels import Draft, Levels
from fly.drafting.lookup import Which
from fly.drafting.per_request import PerRequest
from fly.drafting.protocol import (
    Choose,
    CommittedRow,
    Drafter,
    DraftModel,
    End,
    Parts,
    Proposal,
    drafters,
    greedy,
)
from fly.drafting.reading import DraftReader, within_context
from fly.settings import STRICT, Traits

if TYPE_CHECKING:
    from fly.config import FLyConfig

# What a guessed token adds to a forward of the embedded draft on one core (AVX-512, float32, 200
# tokens before it), as a share of one without: 0.02 at batch 1, 0.05 at batch 8, 0.13 at batch 32.
GUESS_COST = 0.05


class MultilevelSettings(BaseModel):
    """Where guesses come from and when they are made; proposals do not depend on it."""

    model_config = STRICT

    guess: Literal["ngram", "suffix"] = Field(
        "ngram",
        description="What is looked up in the text: its last 1 to max_ngram_size tokens, or its "
        "longest suffix that occurred before.",
    )
    match: Which = Field(
        "latest",
        description="ngram: which of several occurrences is continued. earliest: of the text, as "
        "the released code; latest: of all that was committed or drafted, in fewer forwards.",
    )
    guess_cost: float = Field(
        GUESS_COST,
        ge=0,
        description="What a guessed token adds to a forward of the draft model, as a share of a "
        "forward without one. Guesses are made where and as far as they pay by it; 0: always.",
    )


@drafters.register("multilevel")
class MultilevelDrafter(Drafter):
    """The draft model's continuation, several tokens a forward where it repeats what was said."""

    def __init__(
        self,
        model: DraftModel,
        k: int,
        make_text: MakeText,
        guess_length: int,
        end: End,
        guess_cost: float = GUESS_COST,
        reader: DraftReader | None = None,
    ) -> None:
        """Propose `k` tokens, fewer behind an `end`, from guesses of up to `guess_length` tokens.

        Args:
            model: the draft model.
            k: tokens.
            make_text: makes what a row's text is looked up in.
            guess_length: tokens.
            end: what ends an answer.
            guess_cost: as in the settings.
            reader: of the model, if another owns its rows.
        """
        self.model = model
        self.reader = reader or DraftReader(model)
        self.k = k
        self.end = end
        self.steps: list[list[tuple[bool, list[int], int]]] = []
        self._guessers = PerRequest(lambda _: Guesser(make_text(), guess_length, guess_cost))

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """Of guesses."""
        return MultilevelSettings

    @classmethod
    def traits(cls, config: FLyConfig) -> Traits:
        """Needs a draft model."""
        return Traits(needs_model=True, gives_probs=True)

    @classmethod
    def from_config(cls, config: FLyConfig, parts: Parts) -> MultilevelDrafter:
        """Read spd_k, max_ngram_size and num_ngram_pred_tokens."""
        assert parts.model is not None
        settings = MultilevelSettings(**config.drafter_settings)

        def make_text() -> NgramText | RecentText | SuffixText:
            if settings.guess == "suffix":
                return SuffixText()
            make = NgramText if settings.match == "earliest" else RecentText
            return make(config.max_ngram_size)

        length, cost = config.num_ngram_pred_tokens, settings.guess_cost
        return cls(parts.model, config.spd_k, make_text, length, parts.end, cost, parts.reader)

    def prefill(self, rows: Sequence[CommittedRow]) -> None:
        """Read and index the new prompts."""
        self.reader.prefill(rows)
        self._index(rows)

    def _index(self, rows: Sequence[CommittedRow]) -> list[Guesser]:
        """The rows' guessers, which have read what the rows gained."""
        guessers = [self._guessers.of(row) for row in rows]
        for guesser, row in zip(guessers, rows, strict=True):
            guesser.commit(row.ids[guesser.num_committed :])
        return guessers

    def propose(
        self, rows: Sequence[CommittedRow], limits: Sequence[int], choose: Choose = greedy
    ) -> Proposal:
        """Guess, verify and go on until every row has its tokens.  `steps` then holds, per row and
        forward, whether the lookup hit, the guess, and the tokens gained.

        Where tokens are drawn, a guess stands if it is the token drawn: the proposal is that of
        plain chain drafting, whose draws hang on the place alone.
        """
        lengths = within_context(self.model, rows, limits, self.k)
        self.steps = [[] for _ in rows]
        if not any(lengths):
            return Proposal.from_lists([[] for _ in rows], self.model.device)
        openings = zip(*self.reader.openings(rows, lengths), strict=True)
        drafts = [
            Draft(len(row.ids), limit, *opening, steps, guesser)
            for row, limit, opening, steps, guesser in zip(
                rows, lengths, openings, self.steps, self._index(rows), strict=True
            )
        ]
        levels = Levels(self.model, drafts, self.end, choose)
        levels.run()
        for draft in drafts:
            draft.guesser.take_back()
        padded = Proposal.from_lists([draft.proposed for draft in drafts], self.model.device)
        return replace(
            padded,
            draft_forwards=levels.num_forwards,
            probs=_stack_probs(drafts, padded),
            gains=[[gained for _, _, gained in steps] for steps in self.steps],
        )

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """What was refused lies behind the rows' lengths and is overwritten."""
        self.reader.commit(rows)

    def forget(self, index: int) -> None:
        """Neither its keys and values nor its guesses are needed."""
        self.reader.forget(index)
        self._guessers.pop(index, None)


def _stack_probs(drafts: Sequence[Draft], padded: Proposal) -> Tensor | None:
    """The rows' distributions, padded like their tokens.  [B, K, V]; None if nothing was drawn."""
    some = next((draft.probs[0] for draft in drafts if draft.probs), None)
    if some is None:
        return None
    stacked = some.new_zeros(*padded.ids.shape, some.shape[-1])
    for row, draft in enumerate(drafts):
        if draft.probs:
            probs = torch.cat(draft.probs)[: padded.ids.shape[1]]
            stacked[row, : len(probs)] = probs
    return stacked
