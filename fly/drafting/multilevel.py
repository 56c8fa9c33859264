"""Multi-level drafting, where the draft model verifies looked-up guesses.  Its own continuation is
so found in fewer forwards.  Source: the released FLy code (AMD-AGI/FLy, 6667ae8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fly.drafting.base import (
    Choose,
    DrafterContext,
    DraftModel,
    Proposal,
    Rows,
    StopInfo,
    greedy,
    pad_right,
)
from fly.drafting.draft_cache import CachedDrafter, DraftReader, within_context
from fly.drafting.draft_steps import last_logits
from fly.drafting.guesses import Guesser, MakeText, NgramText, RecentText, SuffixText
from fly.drafting.per_request import PerRequest
from fly.drafting.settings import GUESS_COST, DrafterSpec, MultilevelSettings, ResolvedMultilevel
from fly.drafting.uploads import is_awaited


class MultilevelDrafter(CachedDrafter):
    """The draft model's continuation, several tokens a forward where it repeats earlier text.

    Differs: what the draft decoded in earlier rounds is looked up, too.  Guesses are as long as
    they pay (guesses.py); without one the draft takes a plain step (there: filler tokens, or the
    guess before).  Short texts are looked up with shorter n-grams, and a suffix automaton may take
    the n-grams' place.  With earliest matches and guess_cost 0 guesses are the released code's.
    """

    own_settings = MultilevelSettings

    def __init__(
        self,
        model: DraftModel,
        k: int,
        make_text: MakeText,
        guess_length: int,
        end: StopInfo,
        guess_cost: float = GUESS_COST,
        reader: DraftReader | None = None,
    ) -> None:
        """Propose `k` tokens, fewer after an `end`, from guesses of up to `guess_length` tokens.

        Args:
            model: the draft model.
            k: tokens.
            make_text: makes what a row's text is looked up in.
            guess_length: tokens.
            end: what ends an answer.
            guess_cost: as in the settings.
            reader: as in CachedDrafter.
        """
        super().__init__(model, reader)
        self.k = k
        self.end = end
        self.steps: list[list[tuple[bool, list[int], int]]] = []
        self._guessers = PerRequest(lambda _: Guesser(make_text(), guess_length, guess_cost))

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> MultilevelDrafter:
        settings = spec.settings
        assert parts.model is not None
        assert isinstance(settings, ResolvedMultilevel)

        def make_text() -> NgramText | RecentText | SuffixText:
            if settings.guess == "suffix":
                return SuffixText()
            make = NgramText if settings.match == "earliest" else RecentText
            return make(settings.max_ngram)

        length, cost = settings.guess_length, settings.guess_cost
        reader = DraftReader.of(parts)
        return cls(parts.model, spec.k, make_text, length, parts.end, cost, reader)

    def prefill(self, rows: Rows) -> None:
        """Read and index the new prompts."""
        super().prefill(rows)
        self._index(rows)

    def _index(self, rows: Rows) -> list[Guesser]:
        """The rows' guessers, which have read what the rows gained."""
        guessers = [self._guessers.of(row) for row in rows]
        for guesser, row in zip(guessers, rows, strict=True):
            guesser.commit(row.ids[guesser.num_committed :])
        return guessers

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Guess, verify and go on until every row has its tokens.  `steps` then holds, per row and
        forward, whether the lookup hit, the guess, and the tokens gained.

        Where tokens are drawn, a guess stands if it is the token drawn: the proposal is that of
        plain chain drafting, whose draws depend on the place alone.
        """
        lengths = within_context(self.model, rows, limits, self.k)
        self.steps = [[] for _ in rows]
        if not any(lengths):
            return Proposal.from_lists([[] for _ in rows])
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
        padded = Proposal.from_lists([draft.proposed for draft in drafts])
        return replace(
            padded,
            draft_forwards=levels.num_forwards,
            probs=_stack_probs(drafts, padded),
            gains=[[gained for _, _, gained in steps] for steps in self.steps],
        )

    def forget(self, index: int) -> None:
        """Neither its keys and values nor its guesses are needed."""
        super().forget(index)
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


class Found(NamedTuple):
    """Result of a lookup."""

    has_match: bool
    guess: list[int]  # as far as it pays


NOT_FOUND = Found(False, [])


@dataclass
class Draft:
    """One row's proposal while it grows."""

    num_committed: int
    limit: int
    unread: list[int]  # committed tokens that open the round
    start: int  # position of the first of them
    steps: list[tuple[bool, list[int], int]]  # whether the lookup hit, the guess, tokens gained
    guesser: Guesser
    tokens: list[int] = field(default_factory=list)
    guess: list[int] = field(default_factory=list)  # the last one
    probs: list[Tensor] = field(default_factory=list)  # [n, V] each, where tokens are drawn

    @property
    def num_left(self) -> int:
        """Tokens until it is finished; none or fewer after that."""
        return self.limit - len(self.tokens)

    @property
    def is_finished(self) -> bool:
        """As many tokens as the row may propose."""
        return self.num_left <= 0

    @property
    def proposed(self) -> list[int]:
        """What it proposes."""
        return self.tokens[: self.limit]

    def opening(self) -> tuple[list[int], int]:
        """Known tokens that the draft's cache may lack, and the position of the first: committed
        ones at first, then the newest drafted one.
        """
        if self.tokens:
            return self.tokens[-1:], self.num_committed + len(self.tokens) - 1
        return self.unread, self.start

    def look_up(self, room: int | None) -> Found:
        """What to verify next, up to a position below `room`."""
        if self.is_finished:
            return NOT_FOUND
        has_match, guess = self.guesser.guess(self.num_left - 1)
        if not has_match and self.guesser.is_free:
            guess = self.guess
        self.guess = guess
        if room is not None:
            guess = guess[: max(0, room - self.num_committed - len(self.tokens))]
        return Found(has_match, guess)

    def gain(self, own: Sequence[int], found: Found, end: StopInfo) -> int:
        """Take the draft model's own tokens as far as the guess foresaw them, and one more; returns
        how many that are.
        """
        guess = found.guess
        gained = 1
        while gained <= len(guess) and own[gained - 1] == guess[gained - 1]:
            gained += 1
        self.tokens += own[:gained]
        self.guesser.draft(own[:gained])
        self.limit = end.shorten(self.limit, self.tokens)
        self.steps.append((found.has_match, guess, gained))
        return gained


class Levels:
    """Forwards until every draft is finished."""

    def __init__(
        self, model: DraftModel, drafts: Sequence[Draft], end: StopInfo, choose: Choose
    ) -> None:
        """Begin a round; nothing is drafted yet."""
        self.model = model
        self.drafts = drafts
        self.end = end
        self.choose = choose
        self.num_forwards = 0
        # The newest tokens [B, 1], if they are on the device, and their positions.
        self._newest: tuple[Tensor, list[int]] | None = None

    def run(self) -> None:
        """Finish all drafts."""
        while not all(draft.is_finished for draft in self.drafts):
            found = self._look_up()
            if not self.num_forwards or any(row.guess for row in found):
                self._verify(found)
            elif self._is_read:
                self._go_on(1, found)
            else:
                self._go_on(max(draft.num_left for draft in self.drafts), found)

    def _look_up(self) -> list[Found]:
        """What to verify next in every row.  A guess makes the forward longer for all rows, which
        end with those that have most tokens left: more than these guess on average does not pay.
        """
        found = [draft.look_up(self.model.num_positions) for draft in self.drafts]
        if any(draft.guesser.is_free for draft in self.drafts):
            return found
        most = max(draft.num_left for draft in self.drafts)
        lengths = [
            len(row.guess)
            for draft, row in zip(self.drafts, found, strict=True)
            if draft.num_left == most
        ]
        longest = round(sum(lengths) / len(lengths))
        return [Found(row.has_match, row.guess[:longest]) for row in found]

    @property
    def _is_read(self) -> bool:
        """Whether tokens are looked at as they are drafted.  That waits for an accelerator, which
        plain drafting does not.
        """
        if not is_awaited(self.model.device):
            return True
        return any(draft.guesser.is_hopeful for draft in self.drafts if not draft.is_finished)

    def _verify(self, found: Sequence[Found]) -> None:
        """One forward over every row's opening and guess; finished rows write their last tokens
        again.
        """
        openings, starts = zip(*(draft.opening() for draft in self.drafts), strict=True)
        pieces = [[*known, *row.guess] for known, row in zip(openings, found, strict=True)]
        logits = self.model.extend(pad_right(pieces, self.model.device), starts)
        self.num_forwards += 1
        # After the opening's last token comes the proposal's next; what stands before is known.
        begins = [len(known) - 1 for known in openings]
        if not any(row.guess for row in found):
            logits = last_logits(logits, [len(known) for known in openings])
            begins = [0] * len(begins)
        places = [
            len(draft.tokens) - begin for draft, begin in zip(self.drafts, begins, strict=True)
        ]
        drafted = [
            [*draft.tokens, *row.guess] for draft, row in zip(self.drafts, found, strict=True)
        ]
        chosen, probs = self.choose(logits, places, lambda: drafted)
        self._newest = None
        self._gain(chosen, probs, begins, found)

    def _go_on(self, count: int, found: Sequence[Found]) -> None:
        """`count` tokens more in every row, as in plain drafting; then all of them are read.
        Finished rows go on after what they propose, where nothing counts.
        """
        known = [draft.tokens for draft in self.drafts]

        def choose(
            logits: Tensor, places: Sequence[int], drafted: Callable[[], Sequence[Sequence[int]]]
        ) -> tuple[Tensor, Tensor | None]:
            return self.choose(
                logits,
                [len(old) + place for old, place in zip(known, places, strict=True)],
                lambda: [[*old, *new] for old, new in zip(known, drafted(), strict=True)],
            )

        ids, starts = self._newest or self._uploaded()
        tokens, probs = self.model.draft(ids, [1] * len(known), starts, count, choose)
        self._newest = tokens[:, -1:], [start + count for start in starts]
        self.num_forwards += count
        everything = tokens.cpu()
        for step in range(count):
            # What is read together was not looked up in between.
            looked_up = found if step == 0 else [NOT_FOUND] * len(found)
            column = slice(step, step + 1)
            self._gain(
                everything[:, column],
                None if probs is None else probs[:, column],
                [0] * len(found),
                looked_up,
            )

    def _uploaded(self) -> tuple[Tensor, list[int]]:
        """Every row's newest token, from the host."""
        openings = [draft.opening() for draft in self.drafts]
        starts = [start + len(known) - 1 for known, start in openings]
        ids = torch.tensor([known[-1:] for known, _ in openings], device=self.model.device)
        return ids, starts

    def _gain(
        self,
        chosen: Tensor,
        probs: Tensor | None,
        begins: Sequence[int],
        found: Sequence[Found],
    ) -> None:
        """Read what was chosen [B, n], from column begins[b] on; finished rows take nothing."""
        choices = chosen.tolist()
        for index, (draft, row, begin) in enumerate(zip(self.drafts, found, begins, strict=True)):
            if draft.is_finished:
                continue
            gained = draft.gain(choices[index][begin:], row, self.end)
            if probs is not None:
                draft.probs.append(probs[index, begin : begin + gained])
