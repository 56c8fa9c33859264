"""Engines around transformers' own `generate`.  It is called as its users do: plain, assisted, with
prompt lookup."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, StopStringCriteria

from fly.engine import Request, Result, Statistics
from fly.engine.batch import Row
from fly.engine.stopping import StopRules, eos_ids
from fly.errors import FLyWarning
from fly.workbench.local import LocalEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fly.config import FLyConfig
    from fly.harness import FLyLM


@contextmanager
def _drawing(request: Request) -> Iterator[None]:
    """`generate` draws from torch's own generators: seeded for a while where it samples, and left
    as they were."""
    with torch.random.fork_rng(enabled=request.temperature > 0):
        if request.temperature > 0:
            torch.manual_seed(request.seed % 2**63)
        yield


class GenerateEngine(LocalEngine):
    """transformers' `generate`: prompts sorted by length and padded on the left, in batches as even
    as they can be, since a small last one would be slow."""

    def __init__(
        self, models: FLyLM, batch_size: int, options: Mapping[str, Any] | None = None
    ) -> None:
        """`options` are further arguments of `generate`."""
        super().__init__(models)
        self._model = models.model
        self._batch_size, self._options = batch_size, {**self.options, **(options or {})}
        self._stops = StopRules(models.tokenizer, eos_ids(models.model, models.end_ids))

    @classmethod
    def open(
        cls, models: FLyLM, setup: FLyConfig, batch_size: int, *, trace: bool
    ) -> GenerateEngine:
        return cls(models, batch_size)

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Decode batch by batch; requests that ask for different things do not share one."""
        waiting = deque(self._batches(requests))
        while waiting:
            places = waiting.popleft()
            begin = time.perf_counter()
            chosen = [requests[place] for place in places]
            results = self._try(chosen)
            if results is None:
                middle = len(places) // 2
                waiting.extendleft([places[middle:], places[:middle]])
                continue
            seconds = (time.perf_counter() - begin) / len(chosen)
            for place, result in zip(places, results, strict=True):
                result.statistics.seconds_target = seconds
                yield place, result

    def _try(self, requests: Sequence[Request]) -> list[Result] | None:
        """Decode a batch; None where it does not fit into memory and two halves may."""
        try:
            return self._generate(requests)
        except torch.OutOfMemoryError:
            if len(requests) == 1:
                raise
            warnings.warn(
                f"out of memory with {len(requests)} rows of generate; going on with halves",
                FLyWarning,
                stacklevel=2,
            )
        # Here and not in the handler, where the traceback still holds on to tensors.
        torch.cuda.empty_cache()
        return None

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            asked = (request.max_new_tokens, request.stop, request.temperature)
            key = repr((asked, sorted(request.generation.items())))
            groups.setdefault(key, []).append(place)
        for places in groups.values():
            places.sort(key=lambda place: -len(requests[place].prompt_ids))
            count = math.ceil(len(places) / self._batch_size)
            for number in range(count):
                first, last = (len(places) * end // count for end in (number, number + 1))
                yield places[first:last]

    @torch.inference_mode()
    def _generate(self, requests: Sequence[Request]) -> list[Result]:
        first = requests[0]
        prompts, mask = self._padded(requests)
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        options |= {"top_k": None}
        if first.temperature > 0:
            options = {"do_sample": True, "temperature": first.temperature}
        options["eos_token_id"] = sorted(self._stops.eos_ids) or None
        if any(request.thinking for request in requests):
            behind = StopsBehindThinking(self._stops, requests, prompts.shape[1])
            options["stopping_criteria"] = StoppingCriteriaList([behind])
        elif first.stop:
            # Given as strings, they would reach the assistant of hf_assisted without a tokenizer.
            criteria = StopStringCriteria(self.tokenizer, list(first.stop))
            options["stopping_criteria"] = StoppingCriteriaList([criteria])
        if getattr(self._model.generation_config, "stop_strings", None):
            options["tokenizer"] = self.tokenizer
        generate: Any = self._model.generate  # its annotation asks for a type that no model has
        with _drawing(first):
            output = generate(
                input_ids=prompts,
                attention_mask=mask,
                max_new_tokens=first.max_new_tokens,
                **(options | dict(first.generation) | self._options),
            )
        new = output[:, prompts.shape[1] :].tolist()
        return [self._result(request, ids) for request, ids in zip(requests, new, strict=True)]

    def _padded(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the left, and which of their ids count.  Both [B, T] int64."""
        width = max(len(request.prompt_ids) for request in requests)
        empty = [width - len(request.prompt_ids) for request in requests]
        pad = self.tokenizer.pad_token_id or 0
        rows = [[pad] * n + list(each.prompt_ids) for n, each in zip(empty, requests, strict=True)]
        mask = [[0] * n + [1] * (width - n) for n in empty]
        device = self._model.device
        return torch.tensor(rows, device=device), torch.tensor(mask, device=device)

    def _result(self, request: Request, ids: list[int]) -> Result:
        """The answer up to its end; `generate` goes on until the whole batch has ended."""
        row = Row(0, request, request.max_new_tokens)
        row.ids += ids
        ending = self._stops.end_of(row, len(ids))
        kept = ids[: ending.num_kept]
        return Result(
            token_ids=kept,
            text=self._stops.text(kept, request),
            finish_reason=ending.reason or "length",
            statistics=Statistics(
                requests=1,
                prompt_tokens=len(request.prompt_ids),
                emitted=len(kept),
                unfinished_thinking=int(self._stops.is_thinking(row, len(kept))),
            ),
            key=request.key,
        )


class PromptLookupEngine(GenerateEngine):
    """With tokens that `generate` copies from the prompt."""

    max_rows = 1
    options = {"prompt_lookup_num_tokens": 10}  # noqa: RUF012  the number in transformers' documentation


class AssistedEngine(GenerateEngine):
    """With the draft as `generate`'s assistant."""

    needs_draft = True
    max_rows = 1

    @classmethod
    def open(
        cls, models: FLyLM, setup: FLyConfig, batch_size: int, *, trace: bool
    ) -> GenerateEngine:
        own, draft = models.tokenizer, models.draft
        options: dict[str, Any] = {"assistant_model": draft}
        # Two vocabularies of one size transformers takes for one, and then no tokenizers.
        if draft is not None and _vocab_size(draft) != _vocab_size(models.model):
            options |= {"tokenizer": own, "assistant_tokenizer": models.draft_tokenizer}
        return cls(models, batch_size, options)


def _vocab_size(model: PreTrainedModel) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size


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
