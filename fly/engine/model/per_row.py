"""Models served row by row, with a transformers cache for each row.  For models whose caches hold
more than one slot per position: ALiBi, recurrent state, layers that masks from positions cannot
serve.  Each row is fed at batch 1 with the model's own masks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from fly.engine.model.base import PREFILL_TOKENS, LoadedModel, forward_parameters, read_whole
from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens after a row's last copied state that are fed again before the state is copied anew.  They
# ride along in the forward of the new tokens, which a copy would cost a forward of its own.
REPLAY_TOKENS = 32
# A proposal is longer than REPLAY_TOKENS at times, so the newest copy may hold refused tokens.
COPIES = 3
CACHE_NAMES = ("past_key_values", "cache_params", "state")  # of forward's argument


@dataclass
class CachedRow:
    """One row's cache and the tokens that it stands for."""

    known: list[int] = field(default_factory=list)  # tokens by position, refused ones included
    cache: Any = None
    held: int = 0  # the cache has read known[:held]
    copies: list[tuple[int, Any]] = field(default_factory=list)  # earlier `held` and `cache`

    def overwrite(self, ids: list[int], start: int) -> None:
        """The text is `ids` from `start` on; a cache that read on is taken back to `start`, or to
        the last copy before it.
        """
        self.known = [*self.known[:start], *ids]
        self.copies = [(length, state) for length, state in self.copies if length <= start]
        if start < self.held:
            self._rewind(start)

    def _rewind(self, start: int) -> None:
        if can_be_cut(self.cache):
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, :start], layer.values[:, :, :start]
            self.held = start
            return
        self.held, state = self.copies[-1] if self.copies else (0, None)
        self.cache = copied(state)

    @property
    def last_copy(self) -> int:
        """Tokens that the newest copied state has read."""
        return self.copies[-1][0] if self.copies else 0

    def keep_copy(self) -> None:
        """Copy the state, unless the cache can be cut."""
        if not can_be_cut(self.cache):
            self.copies = [*self.copies[1 - COPIES :], (self.held, copied(self.cache))]


def can_be_cut(cache: Any) -> bool:
    """Whether all layers keep every position's keys and values and nothing else."""
    layers: list[Any] = getattr(cache, "layers", None) or []
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def copied(cache: Any) -> Any:
    """A copy that later forwards leave alone.  Keys and values that grow by concatenation are never
    written to, so both may hold the same.
    """
    shared: dict[int, Any] = {}
    for layer in getattr(cache, "layers", None) or ():
        if isinstance(layer, DynamicLayer) and type(layer).update is DynamicLayer.update:
            shared |= {id(states): states for states in (layer.keys, layer.values)}
    return copy.deepcopy(cache, shared)


class RowModel(LoadedModel):
    """A causal language model with one transformers cache per row of the batch.

    A cache of plain growing keys and values is rolled back by cutting it; any other by copying an
    earlier state and feeding the accepted tokens again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        common_vocab: int | None = None,
        *,
        share_prefixes: bool = True,
        max_extension: int | None = None,
        is_plain: bool = False,
    ) -> None:
        """Wrap a loaded model; nothing of it is changed.

        Args:
            model: as in LoadedModel.
            common_vocab: as in LoadedModel.
            share_prefixes: as in LoadedModel.
            max_extension: 1 feeds one token at a time after the first forward of a row.
            is_plain: nothing is copied, and a prompt is read with the token that opens the first
                round: with max_extension 1 these are the forwards of `generate`.
        """
        super().__init__(model, common_vocab, share_prefixes=share_prefixes)
        self._max_extension = max_extension
        self._is_plain = is_plain
        self._cache_name = next(
            (name for name in CACHE_NAMES if name in self._takes), CACHE_NAMES[0]
        )
        self._is_cache_prepared = False
        self._rows: dict[int, CachedRow] = {}

    def prefill(self, prompts: Sequence[list[int]], first_row: int) -> None:
        """Read prompts into rows `first_row` and following.

        A draft opens its first round with a prompt's last token, so a state is kept before that.
        """
        for index, prompt in enumerate(prompts, first_row):
            row = self._rows[index] = CachedRow(list(prompt))
            if prompt[:-1] and not self._is_plain:
                self._feed(row, prompt[:-1], 1)
                row.keep_copy()

    def extend(self, ids: Tensor, starts: Sequence[int]) -> Tensor:
        """Logits [B, n, V] (DraftModel).  A row that has read more is rolled back to starts[b]."""
        pairs = zip(ids.tolist(), starts, strict=True)
        return torch.stack(
            [self._extend(index, row, start) for index, (row, start) in enumerate(pairs)]
        )

    def _extend(self, index: int, ids: list[int], start: int) -> Tensor:
        """One row's logits [n, V]; zeros at positions that the model does not have."""
        row = self._rows.setdefault(index, CachedRow())
        room = len(ids) if self.num_positions is None else max(0, self.num_positions - start)
        real = ids[:room]
        # A prompt longer than the draft's context was never read, and its row never drafts.
        if not real or start > len(row.known):
            return torch.zeros(len(ids), self._common_vocab, device=self.device)
        row.overwrite(real, start)
        logits = self._read(row, start)
        padding = logits.new_zeros(len(ids) - len(real), logits.shape[-1])
        return torch.cat([logits, padding])

    def _read(self, row: CachedRow, start: int) -> Tensor:
        """Read what the cache has not; logits [n, V] of the text from `start` on."""
        is_far = start - row.last_copy > REPLAY_TOKENS
        if is_far and not self._is_plain and not can_be_cut(row.cache):
            if row.held < start:
                self._feed(row, row.known[row.held : start], 1)
            row.keep_copy()
        return self._feed(row, row.known[row.held :], len(row.known) - start)

    def move(self, source: int, destination: int, length: int) -> None:
        self._rows[destination] = self._rows.pop(source, CachedRow())

    def clear(self) -> None:
        self._rows = {}

    @torch.no_grad()
    def _feed(self, row: CachedRow, ids: list[int], keep: int) -> Tensor:
        """Read ids after what the row's cache holds; the last `keep` tokens' logits [keep, V].

        Raises:
            ModelError: the model returns no cache.
        """
        count = len(ids)
        if self._max_extension is None:
            size = PREFILL_TOKENS
        else:
            size = self._max_extension if row.held else max(1, count)
        kept = []
        for begin, end in pairwise([*range(0, count, size), count]):
            wanted = end - max(begin, count - keep)
            logits = self._forward(row, ids[begin:end], max(1, wanted))
            kept += [logits] if wanted > 0 else []
        return torch.cat(kept)

    def _forward(self, row: CachedRow, ids: list[int], keep: int) -> Tensor:
        fed = torch.tensor([ids], device=self.device).clamp_max(self._common_vocab - 1)
        places = torch.arange(row.held, row.held + len(ids), device=self.device)
        offered = {
            "use_cache": True,
            "position_ids": places[None],
            "cache_position": places,
            "logits_to_keep": keep,
        }
        options = {name: value for name, value in offered.items() if name in self._takes}
        cache = row.cache
        if cache is None and self._is_cache_prepared:
            cache = self._prepared(fed, places)
        output = self.view(input_ids=fed, **{self._cache_name: cache}, **options)
        row.cache = getattr(output, self._cache_name, None)
        if row.cache is None and not self._is_cache_prepared:
            # Forwards of some models make no cache unless they are given one.
            self._is_cache_prepared = self._prepared(fed, places) is not None
            if self._is_cache_prepared:
                return self._forward(row, ids, keep)
        if row.cache is None:
            raise ModelError(f"{type(self.model).__name__} returns no cache")
        row.held += len(ids)
        logits: Tensor = output.logits[0, -keep:, : self._common_vocab]
        return logits

    def _prepared(self, ids: Tensor, places: Tensor) -> Any:
        """The empty cache that `generate` would begin with; None where forward makes it."""
        model: Any = self.model  # its type hides that this is a method
        prepared = model.prepare_inputs_for_generation(
            ids,
            past_key_values=None,
            attention_mask=torch.ones_like(ids),
            cache_position=places,
            use_cache=True,
        )
        return prepared.get(self._cache_name)


# Caches of models (Reformer, XLNet, XLM) whose long texts are not read as short ones are.
OTHER_CACHES = frozenset({"past_buckets_states", "mems", "cache"})


class UncachedModel(RowModel):
    """A causal language model that keeps the rows' texts and nothing else."""

    def __init__(self, model: PreTrainedModel, *args: Any, **options: Any) -> None:
        """Wrap a loaded model; arguments as in LoadedModel.

        Raises:
            ModelError: it has a cache of a kind that is not known here.
        """
        unknown = OTHER_CACHES.intersection(forward_parameters(model))
        if unknown:
            raise ModelError(f"{type(model).__name__} has a cache of its own kind, {min(unknown)}")
        super().__init__(model, *args, is_plain=True, **options)

    @torch.no_grad()
    def _read(self, row: CachedRow, start: int) -> Tensor:
        text = torch.tensor([row.known], device=self.device).clamp_max(self._common_vocab - 1)
        logits = read_whole(self.view, text, len(row.known) - start)
        return logits[0, :, : self._common_vocab]
