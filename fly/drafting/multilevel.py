"""Multi-level drafting: n-gram guesses, verified by the draft model, so that its own greedy
continuation is found in fewer forwards.  Source: the released FLy code (AMD-AGI/FLy, 6667ae8).
Differs: without a guess the draft takes a plain step (there: filler tokens); short texts are looked
up with shorter n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.drafting.ngram import IndexedRows
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
from fly.drafting.reading import DraftReader, pad_right, within_context
from fly.settings import Traits

if TYPE_CHECKING:
    from fly.config import FLyConfig


@dataclass
class Draft:
    """One row's proposal while it grows."""

    committed: list[int]
    limit: int
    unread: list[int]  # committed tokens that the draft model lacks
    start: int  # position of the first of them
    tokens: list[int] = field(default_factory=list)
    guess: list[int] = field(default_factory=list)  # the last one found in this round
    probs: list[Tensor] = field(default_factory=list)  # [n, V] each, where tokens are drawn

    @property
    def is_finished(self) -> bool:
        """As many tokens as the row may propose."""
        return len(self.tokens) >= self.limit

    def opening(self) -> tuple[list[int], int]:
        """Known tokens that the draft's cache may lack, and the position of the first: committed
        ones at first, then the newest drafted one.
        """
        if self.tokens:
            return self.tokens[-1:], len(self.committed) + len(self.tokens) - 1
        return self.unread, self.start


@drafters.register("multilevel")
class MultilevelDrafter(Drafter):
    """The draft model's greedy continuation, several tokens a forward where the text repeats
    itself.
    """

    def __init__(
        self,
        model: DraftModel,
        k: int,
        max_ngram: int,
        guess_length: int,
        end: End,
        reader: DraftReader | None = None,
    ) -> None:
        """Propose `k` tokens, fewer behind an `end`, from guesses of up to `guess_length` tokens
        looked up by up to `max_ngram` tokens.
        """
        self.model = model
        self.reader = reader or DraftReader(model)
        self.k = k
        self.guess_length = guess_length
        self.end = end
        self.steps: list[list[tuple[bool, list[int], int]]] = []
        self._rows = IndexedRows(max_ngram)

    @classmethod
    def traits(cls, config: FLyConfig) -> Traits:
        """Needs a draft model."""
        return Traits(needs_model=True, gives_probs=True)

    @classmethod
    def from_config(cls, config: FLyConfig, parts: Parts) -> MultilevelDrafter:
        """Read spd_k, max_ngram_size and num_ngram_pred_tokens."""
        assert parts.model is not None
        sizes = config.max_ngram_size, config.num_ngram_pred_tokens
        return cls(parts.model, config.spd_k, *sizes, parts.end, parts.reader)

    def admit(self, rows: Sequence[CommittedRow], first: int) -> None:
        """Prefill and index the new prompts."""
        self.reader.admit(rows, first)
        self._rows.admit(rows, first)

    def propose(
        self, rows: Sequence[CommittedRow], limits: Sequence[int], choose: Choose = greedy
    ) -> Proposal:
        """Guess, verify and go on until every row has its tokens.  `steps` then holds, per row and
        forward, whether the lookup hit, the guess, and the tokens gained.

        Where tokens are drawn, a guess stands if it is the token drawn: the proposal is that of
        plain chain drafting, whose draws hang on the place alone.
        """
        lengths = within_context(self.model, rows, limits, self.k)
        if not any(lengths):
            self.steps = [[] for _ in rows]
            return Proposal.from_lists([[] for _ in rows], self.model.device)
        openings = zip(*self.reader.openings(rows, lengths), strict=True)
        drafts = [
            Draft(row.ids, n, *opening)
            for row, n, opening in zip(rows, lengths, openings, strict=True)
        ]
        self.steps = [[] for _ in rows]
        forwards = 0
        while not all(draft.is_finished for draft in drafts):
            self._step(drafts, choose)
            forwards += 1
        for index, draft in enumerate(drafts):
            self._rows[index].rewind(len(draft.committed))
        proposed = [draft.tokens[: draft.limit] for draft in drafts]
        padded = Proposal.from_lists(proposed, self.model.device)
        return Proposal(padded.ids, padded.lengths, forwards, _stack_probs(drafts, padded))

    def _step(self, drafts: list[Draft], choose: Choose) -> None:
        """One forward of the draft model over every row's opening and guess; finished rows write
        their last token again.
        """
        device = self.model.device
        room = self.model.num_positions
        openings, starts = zip(*(draft.opening() for draft in drafts), strict=True)
        hits = [self._guess(index, draft) for index, draft in enumerate(drafts)]
        inputs = []
        for draft, known, start in zip(drafts, openings, starts, strict=True):
            guess = [] if draft.is_finished else draft.guess
            if room is not None:
                guess = guess[: room - start - len(known)]
            inputs.append([*known, *guess])
        ids = pad_right(inputs, device)
        logits = self.model.extend(
            ids, torch.tensor(starts, device=device), max(starts) + ids.shape[1]
        )
        # Behind the opening's last token comes the proposal's next; what stands before is known.
        places = [
            len(draft.tokens) - len(known) + 1
            for draft, known in zip(drafts, openings, strict=True)
        ]
        chosen, probs = choose(
            logits, places, lambda: [draft.tokens + draft.guess for draft in drafts]
        )
        choices = chosen.tolist()
        for index, draft in enumerate(drafts):
            if draft.is_finished:
                continue
            guess = inputs[index][len(openings[index]) :]
            own = choices[index][len(openings[index]) - 1 : len(inputs[index])]
            gained = 1
            while gained <= len(guess) and own[gained - 1] == guess[gained - 1]:
                gained += 1
            draft.tokens += own[:gained]
            if probs is not None:
                begin = len(openings[index]) - 1
                draft.probs.append(probs[index, begin : begin + gained])
            draft.limit = self.end.shorten(draft.limit, draft.tokens)
            self._rows[index].extend(own[:gained])
            self.steps[index].append((hits[index], guess, gained))

    def _guess(self, index: int, draft: Draft) -> bool:
        """Renew the row's guess; one that finds nothing keeps the guess before.  True if the lookup
        hit.
        """
        if draft.is_finished:
            return False
        found = self._rows[index].continuation(self.guess_length)
        draft.guess = found or draft.guess
        return bool(found)

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Index what the rows gained."""
        self.reader.commit(rows)
        self._rows.commit(rows)

    def move(self, source: int, destination: int, length: int) -> None:
        """Carry the row's index, keys and values along."""
        self.reader.move(source, destination, length)
        self._rows.move(source, destination)


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
