"""Where no rule may loosen anything, whatever it says: special tokens, the beginning of an answer,
and all that is not between two markers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.decoding.rows import Row
from fly.drafting import Proposal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig


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


class Places:
    """The first generated tokens."""

    def __init__(self, strict_first_n: int) -> None:
        """Lock the first `strict_first_n` generated tokens."""
        self._first = strict_first_n

    @classmethod
    def from_config(cls, config: FLyConfig, tokenizer: PreTrainedTokenizerBase) -> Places | None:
        """Read strict_first_n; None where nothing is locked."""
        return cls(config.strict_first_n) if config.strict_first_n else None

    def locked(self, rows: Sequence[Row], proposal: Proposal) -> Tensor:
        """As round.Guard."""
        device = proposal.ids.device
        free = [self._first - (len(row.ids) - len(row.request.prompt_ids)) for row in rows]
        steps = torch.arange(proposal.ids.shape[1], device=device)
        return steps < torch.tensor(free, device=device)[:, None]
