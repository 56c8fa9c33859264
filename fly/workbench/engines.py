"""Protocol of engines, and their registry.  Another engine is one class of this shape, registered
under the name that `--methods` uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fly.engine import Request, Result
from fly.registry import Registry
from fly.workbench.divergence import Top2

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig
    from fly.harness import FLyLM


class Engine(Protocol):
    """Decodes requests in one way."""

    takes_setup: ClassVar[bool]  # rule and drafter are the configuration's
    needs_draft: ClassVar[bool]  # a draft model, whatever the configuration has
    shares_ids: ClassVar[bool]  # takes the draft's ids for the target's
    is_lossless: ClassVar[bool]  # the text is the target's own; of no account with a setup
    is_judged: ClassVar[bool]  # gets a verdict where it is not lossless
    max_rows: ClassVar[int | None]  # decoded at once; None: as many as fit
    options: ClassVar[Mapping[str, Any]]  # its settings, for results

    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    setup: FLyConfig | None  # None where it takes none

    @classmethod
    def open(cls, models: FLyLM, setup: FLyConfig, batch_size: int, *, trace: bool) -> Engine:
        """Make one over loaded models, which others use, too; `trace` keeps every round's
        decisions in results."""
        ...

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Yield (index, result) as each request finishes; nothing computed for another call is
        used again."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that its answers and times depend on, as plain JSON: `models` (contents, precision,
        versions) and `hardware` (device, threads)."""
        ...

    def top2(self, prompt_ids: Sequence[int], answer_ids: Sequence[int], place: int) -> Top2:
        """What the target holds of its answer's token number `place`."""
        ...

    def report(self) -> dict[str, Any]:
        """What its drafter did since it was made; empty where there is nothing."""
        ...


# By the name of the method; every rule and drafter is a method of `target`'s engine.
engines: Registry[Engine] = Registry(
    "engine",
    {
        "target": "fly.workbench.local:OwnEngine",
        "draft": "fly.workbench.local:DraftEngine",
        "hf_generate": "fly.workbench.generate:GenerateEngine",
        "hf_assisted": "fly.workbench.generate:AssistedEngine",
        "hf_prompt_lookup": "fly.workbench.generate:PromptLookupEngine",
    },
)
