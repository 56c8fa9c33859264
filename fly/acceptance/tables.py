"""Tables over the vocabulary, with an index of a batch's positions.  A table is [B, T, V], or flat
[L, V] with an index [B, T] of its lines: ragged proposals in vLLM's layout, branches of trees.
Lines are never copied to bring a table into another form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from fly.acceptance import fused
from fly.acceptance.fused import Summary

# Numbers in one piece of a table while it is looked at: on a processor what its cache holds (with
# 128,256 tokens 8 lines took 0.65 times as long as one by one), else 256 MiB.
LARGEST_ON_CPU, LARGEST = 2**20, 2**26


@dataclass(frozen=True, eq=False)
class PlaceIndex:
    """Places of a batch, T in every row."""

    count: int  # T
    index: Tensor | None = None  # [B, T] int64 lines of a flat table; None: the table is [B, T+, V]

    def spread(self, values: Tensor) -> Tensor:
        """Numbers per line, [B, T+, ...] or [L, ...], for every place.  [B, T, ...]"""
        return values[:, : self.count] if self.index is None else values[self.index]

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

    def mark(self, places: Tensor, num_lines: int) -> Tensor:
        """Lines that some places [B, T] bool look at: [B, T] bool, of a flat table [num_lines]."""
        if self.index is None:
            return places
        marked = torch.zeros(num_lines, dtype=torch.bool, device=places.device)
        return marked.index_fill(0, self.index[places], value=True)

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


def largest_piece(device: torch.device) -> int:
    """How many numbers of a table are looked at together."""
    return LARGEST_ON_CPU if device.type == "cpu" else LARGEST


Known = tuple[Tensor, Tensor | None]  # Summary.values, and of which lines; None: of all


def picks_places(device: torch.device) -> bool:
    """Whether single places are looked at: an accelerator would make the host wait for them."""
    return device.type == "cpu"


class LogitTable:
    """The target's logits, and what takes a pass over the vocabulary, computed once per line.

    Numbers per line are [B, K] or [B, K+1] of tables [B, K+1, V], else [L].
    """

    def __init__(self, raw: Tensor, processed: Tensor | None = None, *, is_flat: bool) -> None:
        """Hold logits [B, K+1, V], or lines [..., V] if the table is flat.

        Args:
            raw: as the target gives them.
            processed: after all processors; None: as they are.
            is_flat: whether places find their lines by an index.
        """
        self.raw, self.processed, self._is_flat = raw, processed, is_flat
        self._marked: Tensor | None = None  # as in `only`
        # By whether of the final logits and with entropies; shared by all parts of the table.
        self._known: dict[tuple[bool, bool], Known] = {}

    @property
    def final(self) -> Tensor:
        """The logits that the target chooses by."""
        return self.raw if self.processed is None else self.processed

    @property
    def num_lines(self) -> int:
        """L, as if the table were flat."""
        return self.raw.shape[:-1].numel()

    def only(self, marked: Tensor) -> LogitTable:
        """The same table, of which only some lines will be asked for; other lines' numbers mean
        nothing.

        Args:
            marked: bool, [B, k] of tables [B, K+1, V], k up to K, else [L].
        """
        if not self._is_flat:
            marked = F.pad(marked, (0, self.raw.shape[1] - 1 - marked.shape[1]))
        part = copy.copy(self)
        part._marked = marked
        return part

    @cached_property
    def choice(self) -> Tensor:
        """The likeliest token of every line."""
        kernel = fused.kernel_for(self.final)
        if kernel is None:
            return fused.likeliest(self.final)
        values, choice = self._by_kernel(self.final)
        self._known[self.processed is not None, True] = values, None
        return choice

    @cached_property
    def probs(self) -> Tensor:
        """Distributions after all processors, of the lines that judge: of tables [B, K+1, V] all
        but a row's last.  float32.
        """
        return self._judging(self.final).float().softmax(-1)

    def p_best(self) -> Tensor:
        """What `probs` gives to the likeliest token."""
        if self._has_probs:
            return self.probs.amax(-1)
        return self.summary(is_final=True).p_best

    def p_of(self, judged: PlaceIndex, ids: Tensor) -> Tensor:
        """What `probs` gives to tokens at places.  [B, K]"""
        if self._has_probs:
            return judged.pick(self.probs, ids)
        values = judged.spread(self.summary(is_final=True).values)
        return Summary(values).p_of(judged.pick(self.final, ids))

    def over_probs(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` of `probs`, a number per line."""
        if self._has_probs:
            return reduce(self.probs)
        return self._in_pieces(self.final, lambda piece: reduce(piece.float().softmax(-1)))

    def over_logits(self, reduce: Callable[[Tensor], Tensor], *, is_final: bool = False) -> Tensor:
        """`reduce` of the logits in float32, raw or after all processors, a number per line."""
        table = self.final if is_final else self.raw
        return self._in_pieces(table, lambda piece: reduce(piece.float()))

    def entropy(self, kind: str, *, is_final: bool) -> Tensor:
        """As Scores.entropy, a number per line."""
        summary = self.summary(is_final=is_final, with_entropy=kind != "top3")
        return summary.entropy(kind, self.raw.shape[-1])

    def summary(self, *, is_final: bool, with_entropy: bool = False) -> Summary:
        """What the lines come to, their entropies where these are asked for."""
        key = is_final and self.processed is not None, with_entropy
        table = self.final if key[0] else self.raw
        if fused.kernel_for(table) is not None:
            key = key[0], True  # the kernel finds the entropies anyway
            if key not in self._known:
                self._known[key] = self._by_kernel(table)[0], None
        known = self._known.get(key)
        if known is None or known[1] is not None:
            known = self._known[key] = self._look(table, with_entropy, known)
        return Summary(known[0])

    def _look(self, table: Tensor, with_entropy: bool, known: Known | None) -> Known:
        """The twin's values of the lines that will be asked for and are not known."""

        def reduce(piece: Tensor) -> Tensor:
            return fused.summary_of(piece, with_entropy=with_entropy)

        if self._marked is None:
            return self._in_pieces(table, reduce), None
        if known is None:
            return self._in_pieces(table, reduce), self._marked
        values, seen = known
        assert seen is not None
        missing = self._marked & ~seen
        if not missing.any():
            return known
        found = self.only(missing)._in_pieces(table, reduce)
        return torch.where(missing[..., None], found, values), seen | missing

    @property
    def _has_probs(self) -> bool:
        return "probs" in vars(self)

    def _by_kernel(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Summary.values of all lines, and their likeliest tokens."""
        kernel = fused.kernel_for(table)
        assert kernel is not None
        values, choice = kernel.summarise(table if table.dim() == 3 else table[None])
        if self._is_flat:
            values = values.flatten(0, -2)
        return values, choice.view(table.shape[:-1])

    def _in_pieces(self, table: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """`reduce` ([..., V] -> [..., n] or [...]) of the lines that judge, never of more than
        `largest_piece` numbers at once; where only some are asked for, of these.
        """
        lines = self._judging(table)
        most = largest_piece(table.device)
        if self._marked is not None:
            wanted = self._marked.nonzero()
            parts = wanted.split(max(1, most // lines.shape[-1]))
            found = torch.cat([reduce(lines[part.unbind(-1)]) for part in parts])
            whole = found.new_zeros(*lines.shape[:-1], *found.shape[1:])
            return whole.index_put(wanted.unbind(-1), found)
        if lines.numel() <= most:
            return reduce(lines)
        pieces = [reduce(piece).flatten(0, piece.dim() - 2) for (piece,) in split(most, lines)]
        joined = torch.cat(pieces)
        return joined.view(*lines.shape[:-1], *joined.shape[1:])

    def _judging(self, table: Tensor) -> Tensor:
        """The lines that judge: all of a flat table."""
        return table.flatten(0, -2) if self._is_flat else table[:, :-1]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces one after another, one alone as it is."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def split(most: int, table: Tensor, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of lines [B, T, V] or [L, V], of at most so many numbers (or of one line), each with
    what belongs to it of columns [B, T, ...] or [L, ...].
    """
    per_entry = max(1, table.shape[1:].numel())
    if table.dim() == 2 or per_entry <= most:
        size = max(1, most // per_entry)
        yield from zip(*(each.split(size) for each in (table, *columns)), strict=True)
    else:
        for row in zip(table, *columns, strict=True):
            yield from split(most, *row)


def entropy_of(logits: Tensor, kind: str) -> Tensor:
    """The entropy of the distributions of logits [..., V], as Scores.entropy names its kinds.
    [...]
    """
    values = fused.summary_of(logits, with_entropy=kind != "top3")
    return Summary(values).entropy(kind, logits.shape[-1])
