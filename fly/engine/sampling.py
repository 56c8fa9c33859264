"""Random draws of one round, and the processors applied to both models.  Draws depend on the row's
seed, on how many rounds it has had, and on the place in the proposal.  They do not depend on its
neighbours, the batch's size or the order of the requests.  Nothing else uses random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fly.acceptance.rejection import RejectionSampling, SoftLines, draw
from fly.acceptance.tables import largest_piece, split
from fly.drafting import Choose, Proposal
from fly.drafting.base import greedy
from fly.drafting.uploads import Upload, Uploads, upload
from fly.engine.batch import Row
from fly.engine.processing import Processing

DRAFTING, ACCEPTING, CHOOSING = range(3)
NUM_STREAMS = 3
MIN_PLACES = 32  # drawn at once, since a generator costs more than its numbers


def uniform_draws(seed: int, turn: int, num_places: int) -> np.ndarray:
    """A row's draws in one round.  [num_places, streams] float64 in [0, 1); a larger `num_places`
    only adds rows.
    """
    key = np.array([seed % 2**64, turn], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((num_places, NUM_STREAMS))


class RoundSampler:
    """Chooses tokens for the rows of one round.  Called by a drafter, it chooses the draft's."""

    def __init__(self, rows: Sequence[Row], vocab_size: int, *, keeps_probs: bool = False) -> None:
        """Look at what the rows ask for.

        Args:
            rows: of the batch.
            vocab_size: the target's.
            keeps_probs: a rule wants the draft's distributions even where nothing is drawn.
        """
        self._rows = rows
        self._keeps_probs = keeps_probs
        self._vocab_size = vocab_size
        self._draws = torch.empty(len(rows), 0, NUM_STREAMS, dtype=torch.float64)
        self._uploads = Uploads()
        self._there: dict[torch.device, Upload] = {}  # the draws
        self._is_sampled: Upload | None = None  # rows, on the target's device
        parts = [row.processing for row in rows]
        self._sampled = [row.is_sampled for row in rows]
        self._needs_history = any(part is not None and part.needs_history for part in parts)
        self.is_plain = not any(parts)  # argmax of the raw logits everywhere

    def promise(self, device: torch.device, uploads: Uploads) -> None:
        """Let the target's device get what is drawn there with all else of the round."""
        self._uploads = uploads
        if any(self._sampled):
            self._is_sampled = uploads.add(self._sampled, device)
            self._promised(MIN_PLACES, device)

    @property
    def choose(self) -> Choose:
        """What chooses the draft's tokens: `greedy` itself where that is all."""
        return greedy if self.is_plain and not self._keeps_probs else self

    def __call__(
        self,
        logits: Tensor,
        places: Sequence[int],
        drafted: Callable[[], Sequence[Sequence[int]]],
    ) -> tuple[Tensor, Tensor | None]:
        """Choose the draft's tokens (fly.drafting.Choose)."""
        if self.is_plain and not self._keeps_probs:
            return logits.argmax(-1), None
        missing = self._vocab_size - logits.shape[-1]
        if missing > 0:  # ids that only the target has; processors may name them
            logits = F.pad(logits, (0, missing), value=-torch.inf)
        processed = self.process(logits, places, drafted)
        soft = processed.softmax(-1) if self._keeps_probs else None
        if not any(self._sampled):
            return processed.argmax(-1), soft
        probs = self._probabilities(processed)
        draws = self._drafting(places, logits.shape[1], logits.device)
        # A greedy row's own q decides nothing: it keeps its argmax whatever was offered.
        return draw(probs, draws), probs if soft is None else soft

    def _drafting(self, places: Sequence[int], count: int, device: torch.device) -> Tensor:
        """The draws of `count` places of every row, from places[b] on.  [B, count] float64"""
        first, last = min(places), max(places)
        there = self._promised(last + count, device)
        if first == last >= 0:
            return there.tensor[:, first : first + count, DRAFTING]
        # Places before the proposal belong to known tokens; what is chosen there is not looked at.
        steps = (torch.tensor(places)[:, None] + torch.arange(count)).clamp_min(0)  # [B, n]
        return upload(there.values[..., DRAFTING].gather(1, steps), device)

    def process(
        self,
        logits: Tensor,
        places: Sequence[int],
        drafted: Callable[[], Sequence[Sequence[int]]],
    ) -> Tensor:
        """Apply every row's processors to logits [B, n, V] of the tokens at places[b] and following
        after what is committed; `drafted` gives the tokens before them, if they matter.
        """
        known = drafted() if self._needs_history else [[]] * len(self._rows)
        first = self._rows[0].processing
        if not self._needs_history and all(row.processing is first for row in self._rows):
            return _in_pieces(first, logits) if first else logits.float()
        logits, parts = logits.float(), []
        for row, rows_logits, place, tokens in zip(self._rows, logits, places, known, strict=True):
            parts.append(_process_row(row, rows_logits, place, tokens))
        return torch.stack(parts)

    def process_tree(
        self, logits: Tensor, texts: Callable[[], Sequence[Sequence[Sequence[int]]]]
    ) -> Tensor:
        """Apply every row's processors to logits [B, N+1, V] of trees; `texts` gives for every row
        and line the tokens that it follows after what is committed, if they matter.
        """
        if not self._needs_history:
            return self.process(logits, [0] * len(logits), list)
        logits = logits.float()
        parts = []
        for row, rows_logits, followed in zip(self._rows, logits, texts(), strict=True):
            parts.append(_process_lines(row, rows_logits, followed))
        return torch.stack(parts)

    def drawn(self, processed: Tensor) -> Tensor | None:
        """The target's own token at every line of a tree, from its processed logits [B, N+1, V]:
        one draw, whatever was proposed to follow.  [B, N+1] int64; None where every row is greedy.
        """
        if not any(self._sampled):
            return None
        num_lines = processed.shape[1]
        draws = self._promised(num_lines, processed.device).tensor[:, :num_lines, CHOOSING]
        # A row at a time: the sums that draw makes are twice as large as the logits.
        parts = zip(processed, draws, self._sampled, strict=True)
        return torch.stack(
            [
                draw(lines.softmax(-1), uniform) if is_sampled else lines.argmax(-1)
                for lines, uniform, is_sampled in parts
            ]
        )

    def law(self, processed: Tensor, proposal: Proposal) -> RejectionSampling | None:
        """What decides about the proposal, from the target's processed logits [B, K+1, V]; None
        where every row is greedy.
        """
        if not any(self._sampled):
            return None
        num_places = processed.shape[1]
        draws = self._promised(num_places, processed.device).tensor[:, :num_places, ACCEPTING:]
        asked = self._is_sampled or self._uploads.add(self._sampled, processed.device)
        is_sampled = asked.tensor.bool()
        target = SoftLines(processed, None if all(self._sampled) else ~is_sampled)
        return RejectionSampling(target, proposal.probs, draws, is_sampled)

    def _probabilities(self, processed: Tensor) -> Tensor:
        """Softmax for sampled rows, certainty of the argmax for the others.  [B, n, V]."""
        probs = processed.softmax(-1)
        greedy = [index for index, sampled in enumerate(self._sampled) if not sampled]
        if greedy:
            best = processed[greedy].argmax(-1)
            probs[greedy] = F.one_hot(best, probs.shape[-1]).to(probs.dtype)
        return probs

    def _promised(self, num_places: int, device: torch.device) -> Upload:
        """At least `num_places` of the round's draws.  [B, places, streams] float64."""
        if self._draws.shape[1] < num_places:
            size = max(num_places, MIN_PLACES)
            tables = [uniform_draws(row.request.seed, row.num_rounds, size) for row in self._rows]
            self._draws = torch.from_numpy(np.stack(tables))
            self._there.clear()
        if device not in self._there:
            self._there[device] = self._uploads.add(self._draws, device)
        return self._there[device]


def _in_pieces(processing: Processing, logits: Tensor) -> Tensor:
    """Logits [B, n, V] through processors that look at single lines, which make several tables of
    what they get.  float32.
    """
    most = largest_piece(logits.device)
    if logits.numel() <= most:
        return processing.apply(logits.float().flatten(0, 1)).view_as(logits)
    processed = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    for found, piece in split(most, processed, logits):
        found.copy_(processing.apply(piece.float().flatten(0, -2)).view_as(piece))
    return processed


def _process_row(row: Row, logits: Tensor, place: int, tokens: Sequence[int]) -> Tensor:
    """One row's logits [n, V] through its processors, position by position where they read what
    came before.
    """
    processing = row.processing
    if processing is None:
        return logits
    if not processing.needs_history:
        return processing.apply(logits)
    text = torch.tensor([[*row.ids, *tokens]], device=logits.device)
    start = len(row.ids) + place
    steps = [
        processing.apply(logits[step : step + 1], text[:, : start + step])
        for step in range(len(logits))
    ]
    return torch.cat(steps)


def _process_lines(row: Row, logits: Tensor, followed: Sequence[Sequence[int]]) -> Tensor:
    """One row's logits [n, V], each line after its own tokens; those of one length together."""
    processing = row.processing
    if processing is None:
        return logits
    if not processing.needs_history:
        return processing.apply(logits)
    processed = torch.empty_like(logits)
    for length in {len(tokens) for tokens in followed}:
        lines = [line for line, tokens in enumerate(followed) if len(tokens) == length]
        texts = torch.tensor([[*row.ids, *followed[line]] for line in lines], device=logits.device)
        processed[lines] = processing.apply(logits[lines], texts)
    return processed
