"""Our own engine, over the models that all methods share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fly.config import FLyConfig
from fly.engine import Request, Result, SpeculativeDecoder
from fly.engine.admission import share_ids
from fly.machine import processor
from fly.workbench.divergence import Top2, top2_after
from fly.workbench.sweeps.shared import SharedDecoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.harness import FLyLM


class LocalEngine:
    """Base of engines that decode with the loaded models in this process."""

    takes_setup: ClassVar[bool] = False
    needs_draft: ClassVar[bool] = False
    shares_ids: ClassVar[bool] = False
    is_lossless: ClassVar[bool] = True
    is_judged: ClassVar[bool] = False
    max_rows: ClassVar[int | None] = None
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, models: FLyLM, setup: FLyConfig | None = None) -> None:
        """Use loaded models."""
        self.models, self.setup = models, setup

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        found: PreTrainedTokenizerBase = self.models.tokenizer
        return found

    @property
    def device(self) -> torch.device:
        found: torch.device = self.models.device
        return found

    def describe(self) -> dict[str, Any]:
        """As in Engine; times are never compared across hardware."""
        is_cuda, draft = self.device.type == "cuda", self.models.draft
        return {
            "models": self.models.text_settings,
            "hardware": {
                "device": torch.cuda.get_device_name(self.device) if is_cuda else processor(),
                "draft_device": str(draft.device) if draft is not None else None,
                "threads": torch.get_num_threads(),
                "packed": dict(self.models.choose_packed()),
            },
        }

    def top2(self, prompt_ids: Sequence[int], answer_ids: Sequence[int], place: int) -> Top2:
        return top2_after(self.models.model, [*prompt_ids, *answer_ids[:place]])

    def report(self) -> dict[str, Any]:
        return {}


class OwnEngine(LocalEngine):
    """Our own engine.  Its caches are given up after every call: they are shared with the other
    methods, which would find prompts in them that were computed in another's time."""

    takes_setup = True
    is_judged = True

    def __init__(
        self, models: FLyLM, decoder: SpeculativeDecoder, setup: FLyConfig | None = None
    ) -> None:
        """Use a decoder that nobody else is using meanwhile."""
        super().__init__(models, setup)
        self.decoder = decoder

    @classmethod
    def open(cls, models: FLyLM, setup: FLyConfig, batch_size: int, *, trace: bool) -> OwnEngine:
        # A method that is compiled beside one that is not would be no comparison of methods.
        own = setup.with_fixed_compile()
        decoder = models.decoder.with_config(own, batch_size=batch_size, record_rounds=trace)
        return cls(models, decoder, setup)

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Decode on emptied caches."""
        try:
            yield from self.decoder.decode(requests)
        finally:
            self.decoder.release()

    def report(self) -> dict[str, Any]:
        return self.decoder.report()


class DraftEngine(OwnEngine):
    """Our own engine, on the draft model alone.  It is there to show what the target adds: a
    verdict on it would only weaken the others' (Holm)."""

    takes_setup = False
    needs_draft = True
    shares_ids = True
    is_lossless = False
    is_judged = False

    @classmethod
    def open(cls, models: FLyLM, setup: FLyConfig, batch_size: int, *, trace: bool) -> DraftEngine:
        assert models.draft is not None
        decoder = SpeculativeDecoder(
            models.draft,
            None,
            models.tokenizer,
            setup.with_fixed_compile(),
            batch_size=batch_size,
            end_ids=models.end_ids,
            packer=models.packer,
        )
        return cls(models, decoder)


def shares_ids(models: FLyLM) -> bool:
    """Whether the draft's ids are the target's."""
    return share_ids(models.tokenizer, models.draft_tokenizer)


def share(models: FLyLM, points: Mapping[str, FLyConfig], batch_size: int) -> SharedDecoding:
    """A decoding that many settings of our engine share."""
    return SharedDecoding(
        models.model,
        models.draft,
        models.tokenizer,
        {name: config.with_fixed_compile() for name, config in points.items()},
        batch_size=batch_size,
        draft_tokenizer=models.draft_tokenizer,
        end_ids=models.end_ids,
        packer=models.packer,
    )
