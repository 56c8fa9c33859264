"""Multi-level drafting: guesses from what a row's text, and its draft, said before, verified by the
draft model, so that its own continuation is found in fewer forwards.  Source: the released FLy code
(AMD-AGI/FLy, 6667ae8).  Differs: what the draft said in earlier rounds is looked up, too; guesses
are as long as they pay (guessing.py), and without one the draft takes a plain step (there: filler
tokens, or the guess before); short texts are looked up with shorter n-grams; a suffix automaton may
take the n-grams' place.  With earliest matches and guess_cost 0 guesses are the released code's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel
from torch import Tensor

from fly.drafting.guessing import Guesser, MakeText, NgramText, RecentText, SuffixText
from fly.drafting.levels import Draft, Levels
from fly.drafting.protocol import (
    Choose,
    CommittedRow,
    Drafter,
    DraftModel,
    End,
    Parts,
    Proposal,
    greedy,
)
from fly.drafting.reading import DraftReader, within_context
from fly.drafting.settings import GUESS_COST, MultilevelSettings, ResolvedMultilevel
from fly.drafting.spec import DrafterSpec


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
        self.is_lazy = False  # as in ModelDrafter
        self.guess_length = guess_length
        self.guess_cost = guess_cost
        self.end = end
        self.make_text = make_text
        self.steps: list[list[tuple[bool, list[int], int]]] = []
        self._guessers: list[Guesser] = []
        self._lengths: list[int] = []  # committed tokens that the guessers know

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        return MultilevelSettings

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: Parts) -> MultilevelDrafter:
        settings = spec.settings
        assert parts.model is not None
        assert isinstance(settings, ResolvedMultilevel)

        def make_text() -> NgramText | RecentText | SuffixText:
            if settings.guess == "suffix":
                return SuffixText()
            make = NgramText if settings.match == "earliest" else RecentText
            return make(settings.max_ngram)

        length, cost = settings.guess_length, settings.guess_cost
        return cls(parts.model, spec.k, make_text, length, parts.end, cost, parts.reader)

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Prefill and index the new prompts."""
        self.reader.admit(rows, first, is_lazy=self.is_lazy)
        self._guessers[first:] = [
            Guesser(self.make_text(), self.guess_length, self.guess_cost) for _ in rows[first:]
        ]
        self._lengths[first:] = [0 for _ in rows[first:]]
        self._index(rows)

    def _index(self, rows: Sequence[CommittedRow]) -> None:
        """Read what the rows gained."""
        for index, row in enumerate(rows):
            self._guessers[index].commit(row.ids[self._lengths[index] :])
            self._lengths[index] = len(row.ids)

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
                rows, lengths, openings, self.steps, self._guessers, strict=False
            )
        ]
        levels = Levels(self.model, drafts, self.end, choose)
        levels.run()
        for draft in drafts:
            draft.guesser.take_back()
        padded = Proposal.from_lists([draft.proposed for draft in drafts], self.model.device)
        probs = _stack_probs(drafts, padded)
        return Proposal(padded.ids, padded.lengths, levels.num_forwards, probs)

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Index what the rows gained."""
        self.reader.commit(rows)
        self._index(rows)

    def move(self, source: int, destination: int, length: int) -> None:
        """Carry the row's index, keys and values along."""
        self.reader.move(source, destination, length)
        self._guessers[destination] = self._guessers[source]
        self._lengths[destination] = self._lengths[source]


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
