"""Positions where no rule may loosen anything.  Special tokens, the beginning of an answer, all
that is not between two markers, and proposals that copy the context."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.drafting import Proposal
from fly.drafting.uploads import upload
from fly.engine.batch import Row
from fly.engine.spans import Spans, State
from fly.engine.stopping import StopRules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config.setup import GuardSettings


def protected_tokens(
    tokenizer: PreTrainedTokenizerBase,
    eos_ids: Collection[int],
    vocab_size: int,
    device: torch.device,
) -> Tensor:
    """Special tokens and all that end an answer.  [V] bool."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids, eos_ids)
    protected = torch.zeros(vocab_size, dtype=torch.bool, device=device)
    protected[sorted(index for index in special if index < vocab_size)] = True
    return protected


@dataclass(frozen=True)
class Guards:
    """All that keeps tokens from being traded."""

    protected: Tensor | None  # [V] bool
    places: Places
    stops: StopGuard | None  # None: stop strings are not guarded

    def protected_in(self, rows: Sequence[Row]) -> Tensor | None:
        """The protected tokens [V] bool, with each row's own end tokens [B, V] where one of them
        names any.

        Rows do not protect each other's: what one keeps must not depend on its neighbours.
        """
        if self.protected is None or all(row.request.eos_ids is None for row in rows):
            return self.protected
        table = self.protected.repeat(len(rows), 1)
        for row, mask in zip(rows, table, strict=True):
            mask[sorted(row.request.eos_ids or ())] = True
        return table

    def stopping(
        self, rows: Sequence[Row], chains: Proposal, choice: Callable[[], Tensor]
    ) -> Tensor | None:
        """As StopGuard.concerned; `choice` is asked only if anything is guarded."""
        return None if self.stops is None else self.stops.concerned(rows, chains, choice())


class Places:
    """The first generated tokens, all that is not between two markers, and copied proposals.

    Between the markers a place is locked too where the text before it ends with the beginning of
    the closing marker.  With `closing` no token that belongs to a closing marker, the draft's or
    the target's own, is ever traded.
    """

    def __init__(
        self,
        strict_first_n: int = 0,
        spans: Spans | None = None,
        closing: Tensor | None = None,
        *,
        loosen_copied: bool = False,
    ) -> None:
        """Lock the first `strict_first_n` generated tokens, and what is outside of `spans`.

        Args:
            strict_first_n: may be 0.
            spans: None locks nothing for its text.
            closing: tokens that are traded nowhere, besides.  [V] bool.
            loosen_copied: False locks proposals that copy the context.
        """
        self._first = strict_first_n
        self._loosen_copied = loosen_copied
        self._spans = spans
        self.closing_tokens = closing
        # By id of the rows of the last round: the row, tokens read, and what they came to.
        self._read: dict[int, tuple[Row, int, State]] = {}

    @classmethod
    def from_guards(
        cls,
        guards: GuardSettings,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        device: torch.device,
    ) -> Places:
        """Read strict_first_n, only_inside and loosen_copied."""
        first, loosen_copied = guards.strict_first_n, guards.loosen_copied
        if guards.only_inside is None:
            return cls(first, loosen_copied=loosen_copied)
        opening, closing = guards.only_inside
        spans = Spans(opening, closing, tokenizer)
        tokens = spans.closing_tokens(vocab_size, device)
        return cls(first, spans, tokens, loosen_copied=loosen_copied)

    def locked(self, rows: Sequence[Row], proposal: Proposal) -> Tensor | None:
        """The places of the proposal that are locked.  [B, K] bool; None: there are none.  With
        markers the proposal is waited for on the host.
        """
        if proposal.copies_context and not self._loosen_copied:
            return torch.ones_like(proposal.ids, dtype=torch.bool)
        if self._spans is None and self._first == 0:
            return None
        device, locked = proposal.ids.device, None
        if self._first > 0:
            free = [self._first - (len(row.ids) - len(row.request.prompt_ids)) for row in rows]
            locked = _depths(proposal) < upload(free, device)[:, None]  # [B, K]
        if self._spans is None:
            return locked
        shut = torch.tensor(self._shut(rows, proposal, self._spans), dtype=torch.bool)
        there = upload(shut.reshape(proposal.ids.shape), device)
        return there if locked is None else locked | there

    def _shut(self, rows: Sequence[Row], proposal: Proposal, spans: Spans) -> list[list[bool]]:
        """Places of the proposal that are outside, or where the end may have begun.  [B][K]"""
        read = {id(row): self._follow(row, spans) for row in rows}
        self._read = read  # rows that have left are forgotten
        ids = proposal.ids.tolist()
        lengths = proposal.host_lengths
        chain = list(range(-1, len(ids[0]) - 1)) if ids else []
        parents = [chain] * len(ids) if proposal.parents is None else proposal.parents.tolist()
        return [
            _shut_places(read[id(row)][2], tokens, before, length, spans)
            for row, tokens, before, length in zip(rows, ids, parents, lengths, strict=True)
        ]

    def _follow(self, row: Row, spans: Spans) -> tuple[Row, int, State]:
        """Read what the row has gained since the last round; all of it where it is new."""
        _, num_read, state = self._read.get(id(row), (row, 0, State()))
        return row, len(row.ids), spans.extend(state, row.ids[num_read:])


def _shut_places(
    state: State, tokens: Sequence[int], parents: Sequence[int], length: int, spans: Spans
) -> list[bool]:
    """Of one row's proposal, after a text of this state.  [K]"""
    # What each place follows; the last one is the committed text, which parent -1 means.
    before = [state] * (len(tokens) + 1)
    shut = [True] * len(tokens)  # what is padding does not matter
    for place in range(length):
        found = before[parents[place]]
        shut[place] = not found.is_open or spans.may_close(found)
        before[place] = spans.extend(found, tokens[place : place + 1])
    return shut


def _depths(proposal: Proposal) -> Tensor:
    """How many proposed tokens stand before each on its way from the committed text.  [B, K]"""
    num_rows, k = proposal.ids.shape
    device = proposal.ids.device
    if proposal.parents is None:
        return torch.arange(k, device=device).expand(num_rows, k)
    depths = torch.zeros_like(proposal.parents)
    for place in range(1, k):  # parents stand before their children
        above = proposal.parents[:, place]
        depth = depths.gather(1, above.clamp_min(0)[:, None])[:, 0] + 1
        depths[:, place] = torch.where(above < 0, 0, depth)
    return depths


@dataclass(frozen=True)
class StopGuard:
    """Looks at mismatches only, with the text that each stands after."""

    stops: StopRules

    def concerned(self, rows: Sequence[Row], proposal: Proposal, choice: Tensor) -> Tensor | None:
        """Mismatches where the proposed token or the target's own completes, begins or continues a
        stop string of the row's request.  [B, K] bool; None where there is none.  Where requests
        have stop strings, proposal and choice are waited for on the host.

        Args:
            rows: before the round.
            proposal: chains.
            choice: [B, K] the target's own tokens.
        """
        if not any(row.request.stop for row in rows) or proposal.ids.shape[1] == 0:
            return None
        table = torch.stack([proposal.ids, choice], dim=1).tolist()
        lengths = proposal.host_lengths
        places = [
            self._of_row(row, drafted[:length], own)
            for row, (drafted, own), length in zip(rows, table, lengths, strict=True)
        ]
        if not any(map(any, places)):
            return None
        k = proposal.ids.shape[1]
        padded = [found + [False] * (k - len(found)) for found in places]
        return upload(torch.tensor(padded), proposal.ids.device)

    def _of_row(self, row: Row, drafted: Sequence[int], own: Sequence[int]) -> list[bool]:
        """Up to the last mismatch."""
        mismatches = [place for place, token in enumerate(drafted) if token != own[place]]
        if not row.request.stop or not mismatches:
            return []
        strings = self.stops.strings(row.request)
        said = strings.follow(row)
        found = []
        for token, other in zip(drafted[: mismatches[-1] + 1], own, strict=False):
            before, said = said, strings.extend(said, token)
            is_concerned = said.is_concerned or strings.extend(before, other).is_concerned
            found.append(token != other and is_concerned)
        return found
