"""Shared prompt beginnings, computed once and copied between rows.  Few-shot prompts begin alike,
so their slots are copied instead of computed.  Decisions only, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Tokens from which copying slots is worth a look: a shorter forward costs about as much to launch.
MIN_SHARED = 32
# Padding of a forward from which another forward costs less on a CPU.
MAX_PADDING = 128


@dataclass(frozen=True)
class Span:
    """Work of one row for its prompt: copy `start` slots, compute `ids` after them."""

    row: int
    source: int  # whose slots are copied; the row itself where they are in place
    start: int
    ids: list[int]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with together."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def plan_prefill(
    held: Sequence[list[int]], prompts: Sequence[list[int]], first: int
) -> list[list[Span]]:
    """How to fill rows `first` and following: waves, each of which may copy from those before it.

    Args:
        held: per cache row the tokens that its slots hold from slot 0 on.  Rows below `first` are
            in use; what the others hold is left over from earlier requests.
        prompts: of the new rows.
        first: number of the first new row.
    """
    waves: list[list[Span]] = []
    known = [(row, ids, 0) for row, ids in enumerate(held[:first])]  # (row, ids, wave)
    for row, prompt in enumerate(prompts, start=first):
        source, shared, wave = row, 0, 0
        if row < len(held):
            shared = common_prefix(held[row], prompt)
        for other, ids, ready in known:
            # A longer match has to be worth another copy, and perhaps another wave.
            wanted = shared + MIN_SHARED
            if len(ids) >= wanted and ids[:wanted] == prompt[:wanted]:
                source, shared, wave = other, common_prefix(ids, prompt), ready
        known.append((row, prompt, wave + 1))
        waves += [[] for _ in range(wave + 1 - len(waves))]
        waves[wave].append(Span(row, source, shared, prompt[shared:]))
    return waves


def chunks(
    spans: Sequence[Span], num_tokens: int, max_padding: int | None = None
) -> Iterator[list[Span]]:
    """Consecutive rows whose tokens, padded to the longest, stay within `num_tokens`, `max_padding`
    of padding among them; a single row may have more.
    """
    most = num_tokens if max_padding is None else max_padding
    chunk: list[Span] = []
    for span in spans:
        if not span.ids:
            continue
        lengths = [len(each.ids) for each in (*chunk, span)]
        size = len(lengths) * max(lengths)
        is_full = size > num_tokens or size - sum(lengths) > most
        if chunk and (is_full or span.row != chunk[-1].row + 1):
            yield chunk
            chunk = []
        chunk.append(span)
    if chunk:
        yield chunk
