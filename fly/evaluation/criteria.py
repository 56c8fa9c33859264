"""Stop strings for transformers' `generate` with a model that thinks first: they count only behind
the thinking, as in the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from fly.decoding import Request
from fly.decoding.stopping import StopRules


class StopsBehindThinking(StoppingCriteria):
    """Reads only what is new, unless what it read was taken back: candidates of an assistant."""

    def __init__(self, stops: StopRules, requests: Sequence[Request], first: int) -> None:
        """Follow the rows of one call.

        Args:
            stops: of the model.
            requests: of the rows.
            first: place of the first new token in all of them.
        """
        self._first = first
        self._strings = [stops.strings(request) for request in requests]
        self._read: list[list[int]] = [[] for _ in requests]
        self._said = [strings.start for strings in self._strings]
        self._has_ended = [False] * len(requests)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Rows that hold a stop string.  [B] bool."""
        rows = input_ids[:, self._first :].tolist()
        ended = [self._follow(row, ids) for row, ids in enumerate(rows)]
        return torch.tensor(ended, device=input_ids.device)

    def _follow(self, row: int, ids: list[int]) -> bool:
        strings, num_read = self._strings[row], len(self._read[row])
        if self._read[row] != ids[:num_read]:
            num_read, self._said[row], self._has_ended[row] = 0, strings.start, False
        for token in ids[num_read:]:
            self._said[row] = strings.extend(self._said[row], token)
            self._has_ended[row] |= self._said[row].has_stop
        self._read[row] = ids
        return self._has_ended[row]
