"""How a method decodes: our engine over the models that all methods share, or transformers' own
`generate`, called as its users do.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteriaList, StopStringCriteria

from fly.decoding import Request, Result, SpeculativeDecoder, Statistics
from fly.decoding.rows import Row
from fly.decoding.stopping import StopRules, eos_ids
from fly.decoding.vocabularies import share_ids
from fly.errors import ConfigError, FLyWarning
from fly.evaluation.criteria import StopsBehindThinking
from fly.evaluation.methods import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fly.backend import FLyLM


class Runner(Protocol):
    """Decodes requests by one method."""

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Yield (index, result) as each request finishes; nothing computed for another call is
        used again, unless it is of this one."""
        ...


def check_tokenizers(method: Method, lm: FLyLM) -> None:
    """Refuse a method that takes the draft's ids for the target's where they are not.

    Raises:
        ConfigError: it does.
    """
    if method.translates or not method.needs_draft or method.kind == "assisted":
        return
    if not share_ids(lm.tokenizer, lm.draft_tokenizer):
        raise ConfigError(
            f"--methods {method.name}: takes the draft's ids for the target's, but their "
            "tokenizers differ",
            fix="leave it out, or take drafter 'other_tokenizer', as in other_tokenizer+native",
        )


def make_runner(method: Method, lm: FLyLM, *, trace: bool) -> Runner:
    """The method's runner over a loaded pair; `trace` keeps every round's decisions."""
    if method.is_engine:
        decoder = lm.decoder.with_config(
            method.config, batch_size=method.batch_size, record_rounds=trace
        )
        return EngineRunner(decoder)
    if method.kind == "draft":
        assert lm.draft is not None
        alone = SpeculativeDecoder(
            lm.draft,
            None,
            lm.tokenizer,
            method.config,
            batch_size=method.batch_size,
            end_ids=lm.end_ids,
        )
        return EngineRunner(alone)
    options = dict(method.options)
    if method.kind == "assisted":
        options["assistant_model"] = lm.draft
        # Two vocabularies of one size transformers takes for one, and then no tokenizers.
        if lm.draft is not None and _vocab_size(lm.draft) != _vocab_size(lm.model):
            options |= {"tokenizer": lm.tokenizer, "assistant_tokenizer": lm.draft_tokenizer}
    return GenerateRunner(lm.model, lm.tokenizer, method.batch_size, options, lm.end_ids)


def _vocab_size(model: PreTrainedModel) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size


def _drawing(request: Request) -> AbstractContextManager[None]:
    """`generate` draws from torch's own generators: seeded for a while where it samples, and left
    as they were."""
    if request.temperature <= 0:
        return nullcontext()
    return _seeded(request.seed % 2**63)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class EngineRunner:
    """Our engine.  Its caches are given up behind every call: they are shared with the other
    methods, which would find prompts in them that were computed in another's time."""

    def __init__(self, decoder: SpeculativeDecoder) -> None:
        """Use a decoder that nobody else is using meanwhile."""
        self._decoder = decoder

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Decode on emptied caches."""
        try:
            yield from self._decoder.decode(requests)
        finally:
            self._decoder.release()

    @property
    def drafting(self) -> dict[str, Any]:
        """What the decoder reports of its drafting."""
        return self._decoder.report()


class GenerateRunner:
    """transformers' `generate`: prompts sorted by length and padded on the left, in batches as even
    as they can be, since a small last one would be slow."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        batch_size: int,
        options: dict[str, Any],
        end_ids: Iterable[int] = (),
    ) -> None:
        """`options` are further arguments of `generate`; `end_ids` as in SpeculativeDecoder."""
        self._model, self._tokenizer = model, tokenizer
        self._batch_size, self._options = batch_size, options
        self._stops = StopRules(tokenizer, eos_ids(model, end_ids))

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
            criteria = StopStringCriteria(self._tokenizer, list(first.stop))
            options["stopping_criteria"] = StoppingCriteriaList([criteria])
        if getattr(self._model.generation_config, "stop_strings", None):
            options["tokenizer"] = self._tokenizer
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
        pad = self._tokenizer.pad_token_id or 0
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
