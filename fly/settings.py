"""Settings that rules and drafters share, and the traits of drafters.  They are pydantic models,
checked when a configuration is read and before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

STRICT = ConfigDict(
    frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
)
NO_DRAFTER = "none"  # the drafter that drafts nothing
# Where a rule or drafter works.  sampled: only above temperature 0.
Temperatures: TypeAlias = Literal["any", "greedy", "sampled"]


class NoSettings(BaseModel):
    """Of rules and drafters that have none of their own."""

    model_config = STRICT


@dataclass(frozen=True)
class OfficialKeys:
    """The official code's top-level keys, as far as rules and drafters read them, with `entropy`
    and `fly_variant`, which fix how FLy's are meant; each is described at its field of `Keys`."""

    spd_k: int = 15
    enable_fly: bool = True
    win_len: int = 6
    entropy_thre: float | None = None
    entropy: Literal["top3", "full", "normalised"] | None = None
    fly_variant: Literal["official", "paper", "vllm"] = "official"
    abla_no_window: bool = False
    max_ngram_size: int = 4
    num_ngram_pred_tokens: int = 6
    branch_n: int = 10
    max_nodes_per_level: int = 10
    max_nodes_global: int = 100


@dataclass(frozen=True)
class Traits:
    """What a drafter needs and gives, known from its settings alone."""

    needs_model: bool = False  # a draft model must be loaded
    derives_model: bool = False  # its draft model is made of the target
    gives_probs: bool = False  # proposals carry what their tokens were drawn from
    is_chain: bool = True  # offered fewer tokens, it offers the beginning of the same
    is_timed: bool = False  # what it offers depends on the clock
    asks_pace: bool = (
        False  # asks between tokens whether its proposal goes on (DrafterContext.pace)
    )
    adapts: bool = False  # offers as many tokens as pay where no number is set
    remembers: bool = False  # what it offers depends on earlier requests
    copies_context: bool = False  # every proposal repeats tokens of the context
    copies_partly: bool = False  # some do, and are marked (Proposal.copies_context)
    is_tree: bool = False
    is_official: bool = False  # drafts as the reference implementation, whose counters then apply
    own_tokenizer: bool = False  # the draft model's tokenizer may be another one
    temperatures: Temperatures = "any"
