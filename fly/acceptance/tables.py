"""Tables over the vocabulary, with an index of a batch's positions.  A table is [B, T, V], or flat
[L, V] with an index [B, T] of its lines: ragged proposals in vLLM's layout, branches of trees.
Lines are never copied to bring a table into another form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LARGEST = 2**26  # numbers in one piece of a flat table while it is looked at (256 MiB)


@dataclass(frozen=True, eq=False)
class PlaceIndex:
    """Places of a batch, T in every row."""

    count: int  # T
    index: Tensor | None = None  # [B, T] int64 lines of a flat table; None: the table is [B, T+, V]

    def spread(self, values: Tensor) -> Tensor:
        """A number per line, for every place.  [B, T]"""
        if self.index is None:
            return values if values.shape[1] == self.count else values[:, : self.count]
        return values.flatten()[self.index]

    def pick(self, table: Tensor, ids: Tensor) -> Tensor:
        """What every place's line gives to its token of ids [B, T].  [B, T]"""
        if self.index is None:
            return table[:, : self.count].gather(-1, ids[..., None])[..., 0]
        return table.flatten(0, -2)[self.index, ids]

    def at(self, table: Tensor, places: Tensor) -> Tensor:
        """Lines at some places [B, n].  [B, n, V]"""
        rows = torch.arange(len(places), device=places.device)[:, None]
        return self.lines(table, rows, places)

    def lines(self, table: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Lines at places of rows, both [...].  [..., V]"""
        if self.index is None:
            return table[rows, places]
        return table.flatten(0, -2)[self.index[rows, places]]

    def dense(self, table: Tensor) -> Tensor:
        """All lines, copied from a flat table.  [B, T, V]"""
        if self.index is None:
            return table[:, : self.count]
        return table.flatten(0, -2)[self.index]

    def first(self, count: int) -> PlaceIndex:
        """The first `count` of every row."""
        return PlaceIndex(count, None if self.index is None else self.index[:, :count])


@dataclass(frozen=True, eq=False)
class Layout:
    """Places of one round's lines in the target's tables and in the draft's."""

    target: PlaceIndex  # K+1 places
    draft: PlaceIndex  # K places
    spans: Sequence[tuple[int, int, int]] = ()  # flat: first lines in both and length, by row
    has_last: bool = True  # there is a line for what follows a whole proposal
    is_padded: bool = False  # after a row's own lines there are some that nobody asked for

    @classmethod
    def dense(cls, k: int) -> Layout:
        """Tables [B, K+1, V] and [B, K, V]."""
        return cls(PlaceIndex(k + 1), PlaceIndex(k), is_padded=True)

    @classmethod
    def ragged(cls, lengths: Sequence[int], num_lines: int, device: torch.device) -> Layout:
        """Tables [sum of lengths, V], or with one line more for every row, by `num_lines`."""
        more = 0 if num_lines == sum(lengths) else 1
        if num_lines != sum(lengths) + more * len(lengths):
            raise ValueError(f"{num_lines} lines of logits for proposals of {list(lengths)} tokens")
        spans, begin = [], 0
        for row, length in enumerate(lengths):
            spans.append((begin + more * row, begin, length))
            begin += length
        first = torch.tensor([span[:2] for span in spans], device=device)  # [B, 2]
        steps = torch.arange(max(lengths, default=0) + 1, device=device)
        # After a row's own lines, any will do: the last one that there is.
        last = torch.tensor([length - 1 for length in lengths], device=device)[:, None]
        target = (first[:, :1] + steps.minimum(last + more)).clamp(0, num_lines - 1)
        draft = (first[:, 1:] + steps[:-1].minimum(last)).clamp_min(0)
        return cls(
            PlaceIndex(len(steps), target), PlaceIndex(len(steps) - 1, draft), spans, bool(more)
        )

    @cached_property
    def judged(self) -> PlaceIndex:
        """The target's lines that judge a proposed token."""
        return self.target.first(self.draft.count)

    def first(self, k: int) -> Layout:
        """The first k proposed tokens of every row."""
        spans = [(line, drafted, min(length, k)) for line, drafted, length in self.spans]
        return Layout(self.target.first(k + 1), self.draft.first(k), spans, self.has_last)

    def compare(
        self, reduce: Callable[..., Tensor], target: Tensor, draft: Tensor, *columns: Tensor
    ) -> Tensor:
        """reduce(p, q, columns) of the lines of both that belong to one place.  [B, K]

        Args:
            reduce: from [..., V], [..., V] and [...] to [...].
            target: table.
            draft: table.
            columns: [B, K].
        """
        k = self.draft.count
        if self.target.index is None:
            return reduce(target[:, :k], draft[:, :k], *columns)
        found = [
            reduce(target[i : i + n], draft[j : j + n], *(column[row, :n] for column in columns))
            for row, (i, j, n) in enumerate(self.spans)
        ]
        return torch.stack([torch.cat([row, row.new_zeros(k - len(row))]) for row in found])


class LogitTable:
    """The target's logits, and what takes a pass over the vocabulary, computed once per line."""

    def __init__(self, raw: Tensor, processed: Tensor | None = None, *, is_flat: bool) -> None:
        """Hold logits [B, K+1, V], or lines [..., V] if the table is flat.

        Args:
            raw: as the target gives them.
            processed: after all processors; None: as they are.
            is_flat: whether places find their lines by an index.
        """
        self.raw, self.processed, self._is_flat = raw, processed, is_flat
        self._entropies: dict[tuple[str, bool], Tensor] = {}

    @property
    def final(self) -> Tensor:
        """The logits that the target chooses by."""
        return self.raw if self.processed is None else self.processed

    @cached_property
    def choice(self) -> Tensor:
        """The likeliest token of every line."""
        return self.final.argmax(-1)

    @cached_property
    def probs(self) -> Tensor:
        """Distributions after all processors, of the lines that judge: of tables [B, K+1, V] all
        but a row's last.  float32.
        """
        return self._judging(self.final).float().softmax(-1)

    @cached_property
    def p_best(self) -> Tensor:
        """What `probs` gives to the likeliest token."""
        return self.over_probs(lambda probs: probs.amax(-1))

    def p_of(self, judged: PlaceIndex, ids: Tensor) -> Tensor:
        """What `probs` gives to tokens at places.  [B, K]"""
        if judged.index is None:
            return judged.pick(self.probs, ids)
        found, begin = torch.zeros(ids.shape, device=ids.device), 0
        for probs in self._soft_pieces():
            line = judged.index - begin
            own = probs[line.clamp(0, len(probs) - 1), ids]
            found = torch.where(line >= 0, own, found)  # of a later piece: overwritten there
            begin += len(probs)
        return found

    def over_probs(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` of `probs`, a number per line."""
        return _joined([reduce(probs) for probs in self._soft_pieces()])

    def over_logits(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` of the raw logits in float32, a number per line."""
        return _joined([reduce(piece.float()) for piece in self._pieces(self.raw)])

    def entropy(self, kind: str, *, is_final: bool) -> Tensor:
        """As Scores.entropy, a number per line."""
        key = kind, is_final and self.processed is not None
        if key not in self._entropies:
            pieces = self._pieces(self.final if is_final else self.raw)
            found = [entropy_of(piece.float().log_softmax(-1), kind) for piece in pieces]
            self._entropies[key] = _joined(found)
        return self._entropies[key]

    def _soft_pieces(self) -> Iterator[Tensor]:
        """`probs` in pieces; kept only where it is one."""
        pieces = self._pieces(self.final)
        if len(pieces) == 1:
            yield self.probs
        else:
            yield from (piece.float().softmax(-1) for piece in pieces)

    def _pieces(self, table: Tensor) -> Sequence[Tensor]:
        """The lines that judge, of a flat table not more than LARGEST numbers at once."""
        lines = self._judging(table)
        return lines.split(max(1, LARGEST // lines.shape[-1])) if self._is_flat else (lines,)

    def _judging(self, table: Tensor) -> Tensor:
        """The lines that judge: all of a flat table."""
        return table.flatten(0, -2) if self._is_flat else table[:, :-1]


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def entropy_of(log_probs: Tensor, kind: str) -> Tensor:
    """The entropy of distributions log_probs [..., V], as Scores.entropy names its kinds.  [...]"""
    vocab_size = log_probs.shape[-1]
    if kind == "top3":
        log_probs = log_probs.topk(min(3, vocab_size), dim=-1).values
    # A forbidden token has log p = -inf and contributes nothing; without the clamp it would be
    # 0 * -inf = NaN.
    entropy = -(log_probs.exp() * log_probs.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
    return entropy / math.log(vocab_size) if kind == "normalised" else entropy
