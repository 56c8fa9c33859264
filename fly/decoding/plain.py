"""Plain decoding, for models that no other tier serves: every token is a step of the model's own
`generate`, so the text is that of `generate` whatever the model's cache is like.  Where `generate`
gives no cache back, it reads the whole text at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fly.decoding.positions import num_positions
from fly.decoding.rowwise import cache_argument

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class PlainRow:
    """One row's text, and the cache that `generate` left behind it."""

    ids: list[int]
    cache: Any = None


class PlainModel:
    """A causal language model that takes one token per row at a time and is never rolled back."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap a loaded model; nothing of it is changed."""
        config = model.config.get_text_config()
        self.model = model
        self.vocab_size: int = config.vocab_size
        self.num_positions = num_positions(config)
        self._cache_name = cache_argument(model)
        self._rows: dict[int, PlainRow] = {}

    @property
    def device(self) -> torch.device:
        """Where ids go and logits come from."""
        return self.model.device

    def prefill(self, prompts: Sequence[list[int]], first_row: int) -> None:
        """Note the prompts: `generate` reads them together with the token that opens the first
        round.
        """
        for index, prompt in enumerate(prompts, first_row):
            self._rows[index] = PlainRow(list(prompt))

    def extend(self, ids: Tensor, starts: Tensor, visible: int) -> Tensor:
        """Run ids [B, 1] of rows 0 to B-1; logits [B, 1, V]."""
        assert ids.shape[1] == 1, "a model that decodes plainly takes no proposals"
        tokens = ids[:, 0].tolist()
        return torch.stack([self._step(index, token) for index, token in enumerate(tokens)])

    def _step(self, index: int, token: int) -> Tensor:
        """Logits [1, V] behind one more token of a row."""
        row = self._rows.setdefault(index, PlainRow([]))
        row.ids.append(token)
        fed = torch.tensor([row.ids], device=self.device)
        given = {} if row.cache is None else {self._cache_name: row.cache}
        model: Any = self.model  # its type hides that generate is a method
        output = model.generate(
            fed,
            attention_mask=torch.ones_like(fed),
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
            **given,
        )
        row.cache = getattr(output, "past_key_values", None)
        logits: Tensor = output.logits[0]
        return logits

    def move(self, source: int, destination: int, length: int) -> None:
        """Put one row in the place of another; it is given up."""
        self._rows[destination] = self._rows.pop(source)

    def clear(self) -> None:
        """Forget all rows."""
        self._rows = {}
