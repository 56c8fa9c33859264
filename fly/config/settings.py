"""Keys of a configuration, with names, ranges, defaults and meanings.  Keys without "fly:" in their
description are the official ones and keep their meaning (AMD-AGI/FLy, commit 6667ae8).  Their
combinations are checked in resolve.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import CoreSchema, core_schema

from fly.acceptance import rules
from fly.drafting import drafters
from fly.registry import Registry
from fly.settings import NO_DRAFTER, STRICT, OfficialKeys

MAX_K = 128  # proposal length; a target pass over more tokens than this is a prefill


@dataclass(frozen=True)
class NameIn:
    """Marks a text as a name in a registry, for pydantic; the schema lists the names of now."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], CoreSchema]
    ) -> CoreSchema:
        """The text, then its check."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """As a list of choices."""
        return {"enum": list(self.registry), "type": "string"}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(f"no {self.registry.kind} {name!r}")
        return name


DrafterName = Annotated[str, NameIn(drafters)]
AcceptanceName = Annotated[str, NameIn(rules)]
Variant = Literal["official", "paper", "vllm"]
EntropyKind = Literal["top3", "full", "normalised"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DraftLength = Literal["fixed", "adaptive"]
Packed = Literal["auto", "on", "off"]
Compile = Literal["auto", "off", "on"]
Marker = Annotated[str, Field(min_length=1)]


class Keys(BaseModel):
    """Every key, each checked by itself."""

    model_config = STRICT

    target_model_path: str | None = Field(
        None,
        min_length=1,
        description="Folder or hub id of the target, the model under test. A folder is relative "
        "to this file.",
    )
    draft_model_path: str | None = Field(
        None,
        min_length=1,
        description="fly: folder or hub id of the draft model, used when the command names none "
        "(pretrained=). A folder is relative to this file.",
    )
    use_sd: bool = Field(
        True,
        description="Decode speculatively; false is plain target decoding, same engine.",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        description="Sampling temperature; 0 is greedy. A task's gen_kwargs win over it.",
    )
    dual_tok: bool = Field(False, description="Draft and target have different tokenizers.")
    spd_k: int = Field(
        15,
        ge=1,
        le=MAX_K,
        description="K, tokens the drafter offers in one round (official: 15; 405B: 25).",
    )
    enable_fly: bool = Field(
        True, description="Accept loosely with the FLy rule; false keeps native (exact) acceptance."
    )
    win_len: int = Field(
        6,
        ge=1,
        description="W, positions that must follow a mismatch in its proposal. The official "
        "variant inspects the first W-1 of them, paper and vllm all W. Has an effect only where "
        "spd_k > win_len.",
    )
    entropy_thre: float | None = Field(
        None,
        ge=0,
        description="Gate: a mismatch is kept only where the target's entropy is at least this. "
        "Unit by `entropy`: top3 and full in nats, normalised in 0..1. null: 0.3 (top3), 0.6 "
        "(full), 0.05 (normalised). In the official variant 0.01 or less switches the gate off.",
    )
    use_ngram: bool = Field(
        False,
        description="Multi-level drafting: n-gram guesses from the text, verified by the draft "
        "model.",
    )
    max_ngram_size: int = Field(
        4, ge=1, description="Longest suffix of the text that is looked up in it, tokens."
    )
    num_ngram_pred_tokens: int = Field(
        6, ge=1, description="Tokens that one n-gram lookup guesses."
    )
    verbose: bool = Field(False, description="Log every round.")
    abla_no_window: bool = Field(
        False,
        description="Ablation: accept every mismatch that passes the gate, without a window; "
        "applies even with enable_fly false, as in the official code.",
    )
    tree_verify: bool = Field(False, description="Draft a tree instead of a chain.")
    branch_n: int = Field(10, ge=1, description="Tree: children tried per node.")
    max_nodes_per_level: int = Field(10, ge=1, description="Tree: nodes kept per level.")
    max_nodes_global: int = Field(100, ge=1, description="Tree: nodes kept in all.")
    enable_statistics: bool = Field(
        False, description="Add the reference implementation's counters (official_*) to ours."
    )
    total_gen_tok: int | None = Field(
        None,
        ge=1,
        description="Upper bound on generated tokens per request; null: only the task's "
        "max_gen_toks bounds them.",
    )
    drafter: DrafterName | None = Field(
        None,
        description="fly: who drafts. null: none if use_sd is false, tree if tree_verify, "
        "other_tokenizer if dual_tok, multilevel if use_ngram, else model. ngram and suffix need "
        "no draft model.",
    )
    drafter_settings: dict[str, Any] = Field(
        default_factory=dict, description="fly: settings of the drafter's own (docs/drafters.md)."
    )
    draft_length: DraftLength | None = Field(
        None,
        description="fly: fixed: spd_k tokens. adaptive: as many as pay for the rows of the batch "
        "together, by what was measured so far, up to spd_k, down to none: the text of a loose "
        "rule then depends on the machine's speed. null: adaptive for ngram, suffix and self where "
        "the text is the target's own and nothing is drawn, else fixed.",
    )
    acceptance: AcceptanceName | None = Field(
        None,
        description="fly: the acceptance rule; wins over enable_fly. null: fly if enable_fly or "
        "abla_no_window, else native.",
    )
    acceptance_settings: dict[str, Any] = Field(
        default_factory=dict,
        description="fly: settings of the rule's own (docs/acceptance.md); those of fly are the "
        "official keys.",
    )
    fly_variant: Variant = Field(
        "official",
        description="fly: which FLy. official: the released code; paper: arXiv 2511.22972; vllm: "
        "vLLM #53987, whose gate sees the logits behind temperature, top-k and top-p.",
    )
    entropy: EntropyKind | None = Field(
        None,
        description="fly: what the gate measures. top3: nats over the 3 likeliest tokens, not "
        "renormalised; full: nats over the vocabulary; normalised: full / ln V. null: top3 "
        "(official, vllm), normalised (paper).",
    )
    protect_special_tokens: bool = Field(
        True, description="fly: never loosen on a special or end-of-sequence token."
    )
    protect_stop_strings: bool = Field(
        True,
        description="fly: never loosen on a token that completes, begins or continues a stop "
        "string of its request; off where protect_special_tokens is.",
    )
    strict_first_n: int = Field(
        0, ge=0, description="fly: loosen nothing in the first so many generated tokens."
    )
    only_inside: list[Marker] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description='fly: two markers such as ["<think>", "</think>"]; nothing is loosened but '
        "between them. The prompt counts.",
    )
    loosen_copied: bool = Field(
        False,
        description="fly: loosen tokens that a drafter copied from the context (ngram, suffix, "
        "retrieval), too: answers may turn into copies of the prompt. false judges them natively.",
    )
    compile: Compile = Field(
        "auto",
        description="fly: compile the forwards of both models (docs/performance.md). auto: where "
        "the requests are many enough to pay for it, or the machine has done so before. on: "
        "always. Texts stay the same but where two tokens nearly tie.",
    )
    draft_dtype: Dtype | None = Field(
        None, description="fly: dtype of the draft model's weights; null: as the target."
    )
    draft_device: str | None = Field(
        None,
        min_length=1,
        description="fly: device of the draft model, such as cuda:1; null: the target's; of "
        "several the one with most room.",
    )
    draft_revision: str | None = Field(
        None,
        min_length=1,
        description="fly: hub revision of the draft model; null: its main branch.",
    )

    packed: Packed = Field(
        "auto",
        description="fly: packed copies of linear layers' weights, on a CPU. auto: where they were "
        "measured to be faster on this machine; on: all; off: none. docs/performance.md",
    )

    @property
    def official(self) -> OfficialKeys:
        """Those that rules and drafters read."""
        return OfficialKeys(
            **{each.name: getattr(self, each.name) for each in fields(OfficialKeys)}
        )

    @property
    def drafter_name(self) -> str:
        """Who drafts."""
        if not self.use_sd:
            return NO_DRAFTER
        if self.drafter is not None:
            return self.drafter
        if self.tree_verify:
            return "tree"
        if self.dual_tok:
            return "other_tokenizer"
        return "multilevel" if self.use_ngram else "model"

    @property
    def asked_acceptance(self) -> str:
        """Which rule was asked for.  As in the official code, the ablation needs no enable_fly."""
        if self.acceptance is not None:
            return self.acceptance
        return "fly" if self.enable_fly or self.abla_no_window else "native"
