"""The settings and what follows from them.  Keys without "fly:" in their description are the
official ones and keep their meaning (AMD-AGI/FLy, commit 6667ae8).  Ranges are declared here;
combinations are judged in `combinations`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from fly.acceptance import Rule, rules
from fly.acceptance.fly import FlyRule
from fly.config import combinations, explain, loading, variants
from fly.config.names import NameIn
from fly.config.origin import Origin
from fly.registry import drafters
from fly.settings import STRICT, OfficialKeys, Traits

MAX_K = 128  # proposal length; a target pass over more tokens than this is a prefill

DrafterName = Annotated[str, NameIn(drafters)]
AcceptanceName = Annotated[str, NameIn(rules)]
Variant = Literal["official", "paper", "vllm"]
EntropyKind = Literal["top3", "full", "normalised"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DraftLength = Literal["fixed", "adaptive"]
Marker = Annotated[str, Field(min_length=1)]


class FLyConfig(BaseModel):
    """Every setting of a decoder.  Frozen; unknown keys and wrong types are `ConfigError`s."""

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
    draft_dtype: Dtype | None = Field(
        None, description="fly: dtype of the draft model's weights; null: as the target."
    )
    draft_device: str | None = Field(
        None,
        min_length=1,
        description="fly: device of the draft model, such as cuda:1; null: as the target.",
    )
    draft_revision: str | None = Field(
        None,
        min_length=1,
        description="fly: hub revision of the draft model; null: its main branch.",
    )

    def __init__(self, where: str | Origin = "FLyConfig", /, **settings: object) -> None:
        """Check every setting and their combination.  `where` says in messages who gave them.

        Raises:
            ConfigError: an unknown key, a wrong type or value, or a combination that cannot work.

        Warns:
            FLyWarning: a combination that works but loosens nothing, leaves the gate off, or may
                turn answers into copies of the prompt.
        """
        settings.pop("$schema", None)
        origin = Origin(where) if isinstance(where, str) else where
        explain.refuse_long_numbers(settings, origin)
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise explain.config_error(error, origin, FLyConfig.model_json_schema()) from None
        combinations.refuse_impossible(self, origin)
        variants.check(self, origin)
        combinations.warn_of_inert(self, origin)
        combinations.warn_of_copies(self, origin)

    def __hash__(self) -> int:
        """Equal settings hash alike, those of rule and drafter included."""
        return hash(json.dumps(self.model_dump(), sort_keys=True, default=repr))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object], where: str = "FLyConfig") -> FLyConfig:
        """Build from parsed settings; model folders are relative to the current directory."""
        return loading.build(cls, mapping, {}, Origin(where))

    @classmethod
    def load(
        cls,
        path: loading.PathLike | None,
        overrides: Mapping[str, object] | None = None,
        *,
        overrides_from: str = "model_args",
    ) -> FLyConfig:
        """Read a JSON file (None: the defaults) and let `overrides` win over it.

        Args:
            path: a file, or the name of a shipped configuration.
            overrides: settings; texts ("15", "true", "0.3", "none") are read as the key's type.
            overrides_from: what messages call the source of the overrides.

        Raises:
            ConfigError: the file cannot be read, or see `__init__`.
        """
        if path is None:
            return loading.build(cls, {}, overrides or {}, Origin("defaults"), overrides_from)
        file = loading.resolve_config_path(path)
        settings = loading.read_json(file)
        origin = Origin(str(file))
        return loading.build(cls, settings, overrides or {}, origin, overrides_from, file.parent)

    @property
    def drafter_name(self) -> str:
        """Who drafts."""
        if not self.use_sd:
            return "none"
        if self.drafter is not None:
            return self.drafter
        if self.tree_verify:
            return "tree"
        if self.dual_tok:
            return "other_tokenizer"
        return "multilevel" if self.use_ngram else "model"

    @property
    def drafter_traits(self) -> Traits:
        """What the drafter needs and gives."""
        return drafters.get(self.drafter_name).traits(self)

    @property
    def draft_length_name(self) -> DraftLength:
        """How long proposals are; left open, they follow the clock only where text does not."""
        if self.draft_length is not None:
            return self.draft_length
        return "adaptive" if self.drafter_traits.adapts and not self.is_loose else "fixed"

    def with_fixed_length(self) -> FLyConfig:
        """The same; a length that is left open and would follow the clock is fixed."""
        if self.draft_length is not None or self.draft_length_name == "fixed":
            return self
        return self.model_copy(update={"draft_length": "fixed"})

    @property
    def needs_draft(self) -> bool:
        """Whether a draft model must be loaded."""
        return self.drafter_traits.needs_model

    @property
    def asked_acceptance(self) -> str:
        """Which rule was asked for.  As in the official code, the ablation needs no enable_fly."""
        if self.acceptance is not None:
            return self.acceptance
        return "fly" if self.enable_fly or self.abla_no_window else "native"

    @property
    def official(self) -> OfficialKeys:
        """The official keys, as far as rules and drafters read them."""
        names = (field.name for field in dataclasses.fields(OfficialKeys))
        return OfficialKeys(**{name: getattr(self, name) for name in names})

    @property
    def asked_rule(self) -> Rule:
        """The rule that was asked for, with its settings."""
        return rules.get(self.asked_acceptance).resolved(self.acceptance_settings, self.official)

    @property
    def rule(self) -> Rule:
        """The rule that accepts, with its settings."""
        if self.is_overruled:
            return rules.get("native").resolved({}, self.official)
        return self.asked_rule

    @property
    def is_overruled(self) -> bool:
        """Whether native acceptance takes the place of the loose rule that was asked for: all that
        is drafted is copied (docs/acceptance.md)."""
        if self.loosen_copied or not self.drafter_traits.copies_context:
            return False
        return not self.asked_rule.is_lossless

    @property
    def acceptance_name(self) -> str:
        """Which rule accepts."""
        return "native" if self.is_overruled else self.asked_acceptance

    @property
    def is_loose(self) -> bool:
        """Whether the text can differ from the target's own (sampled: its distribution)."""
        if self.drafter_name == "none":
            return False
        return not self.rule.is_lossless

    @property
    def loosens_copies(self) -> bool:
        """Whether tokens that a drafter copied may be loosened."""
        traits = self.drafter_traits
        copies = traits.copies_context or traits.copies_partly
        return self.loosen_copied and copies and self.is_loose

    @property
    def uses_fly(self) -> bool:
        """Whether FLy decides, with its window and gate."""
        return self.drafter_name != "none" and self.acceptance_name == "fly"

    @property
    def entropy_kind(self) -> str:
        """What the gate measures."""
        return FlyRule.resolved({}, self.official).entropy

    @property
    def entropy_threshold(self) -> float | None:
        """The gate's threshold in the unit of `entropy_kind`; None where the gate is off."""
        return FlyRule.resolved({}, self.official).threshold

    def to_dict(self) -> dict[str, object]:
        """Every setting as given, fit for JSON."""
        return self.model_dump()

    def fingerprint(self) -> str:
        """SHA-256 over what can change the text, resolved: two spellings of one setup agree."""
        relevant: dict[str, object] = {
            "target_model_path": self.target_model_path,
            "temperature": self.temperature,
            "total_gen_tok": self.total_gen_tok,
            "drafter": self.drafter_name,
        }
        keys: list[str] = []
        if self.drafter_name != "none":
            relevant["acceptance"] = self.acceptance_name
            relevant["acceptance_settings"] = {} if self.is_overruled else self.acceptance_settings
            # Of a row that is sampled, one that was asked for follows the clock, another does not.
            is_asked = self.draft_length == "adaptive"
            relevant["draft_length"] = [self.draft_length_name, is_asked]
            keys += ["spd_k", "drafter_settings"]
        if self.needs_draft:
            keys += ["draft_model_path", "draft_dtype", "draft_revision"]
        if self.drafter_name in ("ngram", "multilevel", "bandit"):
            keys += ["max_ngram_size", "num_ngram_pred_tokens"]
        if self.drafter_name in ("tree", "bandit"):
            keys += ["branch_n", "max_nodes_per_level", "max_nodes_global"]
        if self.is_loose:
            relevant["entropy"] = [self.entropy_kind, self.entropy_threshold]
            # Of a rule that is registered from outside, nobody here knows what it reads.
            keys += ["fly_variant", "abla_no_window", "protect_special_tokens"]
            keys += ["protect_stop_strings", "strict_first_n", "only_inside", "loosen_copied"]
            keys += [] if self.abla_no_window else ["win_len"]
        relevant.update({key: getattr(self, key) for key in keys})
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
