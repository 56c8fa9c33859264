"""Records that travel through the engine: what is asked, what is decoded, what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fly.acceptance import Reason
from fly.decoding.statistics import Statistics

if TYPE_CHECKING:
    from fly.decoding.processing import Processing
    from fly.decoding.stop_strings import Said

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Thinking:
    """What a model says before its answer.  Stop strings count only behind it, and behind the
    blanks that follow."""

    end: str | int  # what it ends with: a text, or a token's id; of a special token the id
    is_over: bool = False  # before the first new token


@dataclass(frozen=True)
class Request:
    """One prompt to continue."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # strings that end the answer wherever they appear in it
    temperature: float = 0.0  # 0 decodes greedily
    seed: int = 0  # of its draws; two requests of one seed and prompt get the same answer
    # Further arguments of transformers' generate: top_k, top_p, ..., eos_token_id
    generation: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""  # the caller's name for it, for instance the task
    thinking: Thinking | None = None  # None: stop strings count everywhere

    @property
    def eos_ids(self) -> frozenset[int] | None:
        """The end tokens that it names in place of the model's; None: the model's."""
        named = self.generation.get("eos_token_id")
        if named is None:
            return None
        return frozenset([named] if isinstance(named, int) else named)


@dataclass(frozen=True)
class MismatchRecord:
    """A mismatch that took effect: kept, or the first that was refused."""

    place: int  # in the proposal
    preferred_id: int  # the target's own token there
    p_drafted: float  # by the target's raw logits
    p_preferred: float
    entropy: float  # of the kind that the rule's gate looks at; top3 where it has none


@dataclass(frozen=True)
class RoundRecord:
    """What one round decided for one row; kept only when asked for."""

    draft_ids: list[int]  # [K]
    reasons: list[int]  # [K] acceptance.Reason
    emitted_ids: list[int]  # before anything is trimmed
    mismatches: list[MismatchRecord]

    @property
    def native(self) -> list[bool]:
        """Native matches, behind the first refusal too.  [K]"""
        return [reason == Reason.MATCH for reason in self.reasons]

    @property
    def accepted(self) -> list[bool]:
        """The rule's decisions, behind the first refusal too.  [K]"""
        return [reason in (Reason.MATCH, Reason.LOOSE) for reason in self.reasons]


@dataclass(frozen=True)
class Result:
    """One answer."""

    token_ids: list[int]  # up to and including the token that ended it
    text: str  # special tokens left out, cut before the stop string
    finish_reason: (
        FinishReason  # eos: an end token; stop: a stop string; length: budget or context exhausted
    )
    statistics: Statistics
    rounds: list[RoundRecord] | None = None
    key: str = ""
    origins: str = ""  # a character a token: m match, l loose, c correction, b bonus, p plain
    round_lens: list[tuple[int, int]] = field(
        default_factory=list
    )  # tokens proposed and kept (before anything is trimmed), of the rounds with a proposal


@dataclass
class Row:
    """A request while it is being decoded.  The target's cache holds all of `ids` but the last."""

    index: int  # place of the request among those asked
    request: Request
    budget: int  # new tokens that it may get
    processing: Processing | None = None  # None: plain argmax
    ids: list[int] = field(default_factory=list)  # prompt and emitted tokens
    statistics: Statistics = field(default_factory=Statistics)
    rounds: list[RoundRecord] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)  # a character for every emitted token
    round_lens: list[tuple[int, int]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    said: tuple[int, Said] | None = None  # StopStrings', and how many new tokens it has read

    def __post_init__(self) -> None:
        """A new row holds its prompt."""
        self.ids = list(self.request.prompt_ids)
        self.statistics.requests = 1
        self.statistics.prompt_tokens = len(self.ids)

    @property
    def key(self) -> str:
        """The request's."""
        return self.request.key

    @property
    def is_sampled(self) -> bool:
        """Whether its tokens are drawn."""
        return self.processing is not None and self.processing.is_sampled

    @property
    def answer(self) -> list[int]:
        """The emitted tokens."""
        return self.ids[len(self.request.prompt_ids) :]

    @property
    def num_rounds(self) -> int:
        """Rounds that the row has had."""
        return self.statistics.rounds + self.statistics.plain

    @property
    def remaining(self) -> int:
        """New tokens that may still come."""
        return self.budget - (len(self.ids) - len(self.request.prompt_ids))
