"""Loading of both models behind the engine's protocol.  They are probed; a pair that cannot
speculate decodes plainly, with a warning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from fly.drafting import DrafterSpec, TreeModel
from fly.engine.batch import Row, Scheduler
from fly.engine.model.base import CausalModel, LoadedModel, TreeVerifier
from fly.engine.model.packed import Packer
from fly.engine.model.probe import PLAIN, CacheKind, Finding, drafts_nan, probe
from fly.engine.model.step_choice import CompiledSteps, Work
from fly.engine.self_draft.build import derive_draft
from fly.errors import FLyWarning, ModelError
from fly.settings import NO_DRAFTER, Traits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fly.config import Setup

CHAIN_DRAFTER, LOOKUP_DRAFTER = "model", "ngram"


@dataclass(frozen=True)
class Loading:
    """How both models are served."""

    packer: Packer  # of their linear layers
    share_prefixes: bool = True  # as in SlotModel
    shares_ids: bool = True  # draft and target mean the same by an id; what only one has is unused

    def serve(
        self, kind: CacheKind, model: PreTrainedModel, role: str, common_vocab: int | None = None
    ) -> CausalModel:
        """The model behind the engine's interface, packed where that pays.  Drafts are derived from
        the model as it was loaded, which `model` remains.
        """
        served = kind.load(model, common_vocab, share_prefixes=self.share_prefixes)
        if isinstance(served, LoadedModel):
            served.view = self.packer.view(model, role)
        return served


@dataclass(frozen=True)
class ServedModels:
    """The model that decodes, and the one that proposes."""

    target: CausalModel
    draft: CausalModel | None
    drafter: str  # name; the one asked for, or none where the pair cannot speculate
    target_kind: CacheKind | None = None  # None where it came with the engine's interface
    draft_kind: CacheKind | None = None
    can_verify: bool = True  # False where the target goes token by token whatever is proposed

    def with_drafter(self, name: str, *, needs_draft: bool) -> ServedModels:
        """The same models for another drafter; plain decoding where they cannot do what it needs.

        A draft that is not needed is left out.
        """
        if not self.can_verify or (needs_draft and self.draft is None):
            return replace(self, draft=None, draft_kind=None, drafter=NO_DRAFTER)
        if needs_draft:
            return replace(self, drafter=name)
        return replace(self, draft=None, draft_kind=None, drafter=name)

    @property
    def _models(self) -> list[CausalModel]:
        return [self.target] if self.draft is None else [self.target, self.draft]

    @property
    def can_verify_trees(self) -> bool:
        """Whether the target reads the branches of a tree side by side."""
        return isinstance(self.target, TreeVerifier)

    def for_traits(self, traits: Traits) -> ServedModels:
        """The same models, with chains in place of trees that one of them cannot read; a drafter
        of several arms (is_timed) leaves such arms out itself.

        Warns:
            FLyWarning: so it is.
        """
        if not traits.is_tree or traits.is_timed or self.drafter == NO_DRAFTER:
            return self
        if not self.can_verify_trees:
            role = "target"
        elif traits.needs_model and not isinstance(self.draft, TreeModel):
            role = "draft"
        else:
            return self
        chain = CHAIN_DRAFTER if self.draft is not None else LOOKUP_DRAFTER
        warnings.warn(
            f"the {role} cannot read the branches of a tree side by side, so drafter {chain!r} "
            f"drafts chains in place of {self.drafter!r}",
            FLyWarning,
            stacklevel=4,  # whoever made the decoder
        )
        return replace(self, drafter=chain)

    def reserve(self, num_rows: int, longest: int) -> None:
        """Make room in both caches for rows of up to `longest` tokens."""
        for model in self._models:
            model.reserve(num_rows, longest)

    def clear(self) -> None:
        """Give up what the caches hold."""
        for model in self._models:
            model.clear()
        if self.target.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, str | None]:
        """The kinds of cache and the drafter's, for reports."""
        kinds = self.target_kind, self.draft_kind
        target, draft = (None if kind is None else kind.name for kind in kinds)
        return {"target": target, "draft": draft, "drafter": self.drafter}

    @property
    def source(self) -> Any:
        """The target as it was loaded, with its configuration."""
        return getattr(self.target, "model", self.target)


def check_decoder_only(model_config: Any, which: str) -> None:
    """Refuse an encoder-decoder model; `which` stands in the error, as in "the target is X".

    Raises:
        ModelError: the model has an encoder.
    """
    if getattr(model_config, "is_encoder_decoder", False):
        raise ModelError(
            f"{which}, an encoder-decoder model ({model_config.model_type}); "
            "speculative decoding needs a decoder-only model",
            fix="decode it with its own generate; in lm-eval use hf, without config_path",
        )


def load_models(
    target: PreTrainedModel | CausalModel,
    draft: PreTrainedModel | CausalModel | None,
    drafter: str,
    loading: Loading,
) -> ServedModels:
    """Find out how each model is served.  One that is a CausalModel already is taken as it is.

    Args:
        target: the model whose text is wanted.
        draft: the model that proposes; None for drafters that need none.
        drafter: the name of the drafter asked for.
        loading: how they are served.

    Raises:
        ModelError: a model has an encoder, or its attention implementation cannot be served, or the
            target not at all.
    """
    found = None
    if isinstance(target, CausalModel):
        pair = ServedModels(target, None, drafter)
    else:
        check_decoder_only(target.config, f"the target is {type(target).__name__}")
        found = probe(target.eval())
        if found.kind is None:
            raise ModelError(
                f"{type(target).__name__} cannot be decoded token by token ({found.why})",
                fix="use lm-eval's own hf, without config_path",
            )
        if not found.kind.can_verify:
            # Verifying token by token would cost what plain decoding costs.
            if drafter != NO_DRAFTER:
                _warn("target", target, found, above=4)
            plain = loading.serve(PLAIN, target, "target")
            return ServedModels(plain, None, NO_DRAFTER, PLAIN, can_verify=False)
        served = loading.serve(found.kind, target, "target")
        pair = ServedModels(served, None, drafter, found.kind)
    if draft is None:
        return pair
    return load_draft(pair, draft, loading, found)


def load_draft(
    pair: ServedModels,
    draft: PreTrainedModel | CausalModel,
    loading: Loading,
    target_found: Finding | None = None,
) -> ServedModels:
    """The pair with this draft; plain decoding, with a warning, where it cannot draft.

    Args:
        pair: of a target alone.
        draft: the model that proposes; probed unless it has the engine's interface.
        loading: how it is served.
        target_found: what the probe found of the target, which may be the draft too.
    """
    if isinstance(draft, CausalModel):
        return replace(pair, draft=draft)
    check_decoder_only(draft.config, f"the draft is {type(draft).__name__}")
    is_target = target_found is not None and draft is pair.source
    found = target_found if target_found and is_target else probe(draft.eval(), is_draft=True)
    if found.kind is None or not found.kind.can_draft:
        _warn("draft", draft, found, above=5)
        return replace(pair, drafter=NO_DRAFTER)
    if not is_target and drafts_nan(draft):
        warnings.warn(
            f"the logits of the draft, {type(draft).__name__}, are not finite: hardly one of its "
            "tokens will be accepted. Check its weights, or set draft_dtype to bfloat16 or float32",
            FLyWarning,
            stacklevel=4,
        )
    common_vocab = pair.target.vocab_size if loading.shares_ids else None
    drafting = loading.serve(found.kind, draft, "draft", common_vocab)
    return replace(pair, draft=drafting, draft_kind=found.kind)


def _warn(role: str, model: PreTrainedModel, found: Finding, above: int) -> None:
    """Warn where the decoder was made, so many calls above."""
    warnings.warn(
        f"the {role}, {type(model).__name__}, cannot be extended by several tokens and taken back "
        f"again, so the target decodes plainly, without a draft ({found.why})",
        FLyWarning,
        stacklevel=above,
    )


@dataclass
class SharedModels:
    """State that decoders share which were made of one another: the served models, and whose turn
    it is."""

    pair: ServedModels
    tokenizer: PreTrainedTokenizerBase
    has_draft: bool  # was given one, whether or not it can draft
    loading: Loading
    draft_tokenizer: PreTrainedTokenizerBase | None = None  # None: the same
    end_ids: frozenset[int] = frozenset()  # the caller's
    compiled: CompiledSteps = field(default_factory=CompiledSteps)
    widest: int = 0  # rows that the caches have been used for
    owner: Scheduler | None = None  # of the rows, both caches' and the drafters'
    # Pairs with a draft made of the target, by the settings that it was made by.
    derived: dict[str, ServedModels] = field(default_factory=dict)

    def pair_for(self, drafter: DrafterSpec) -> ServedModels:
        """The models as a drafter needs them; a draft made of the target is made once."""
        name, traits = drafter.name, drafter.traits
        if not traits.derives_model or not self.pair.can_verify:
            return self.pair.with_drafter(name, needs_draft=traits.needs_model)
        key = json.dumps(drafter.drafter_settings, sort_keys=True)
        if key not in self.derived:
            alone = self.pair.with_drafter(name, needs_draft=False)
            draft = derive_draft(alone.source, self.tokenizer, drafter)
            self.derived[key] = load_draft(alone, draft, self.loading)
        return self.derived[key]

    def make_ready(
        self, pair: ServedModels, setup: Setup, rows: Sequence[Row], num_rows: int
    ) -> None:
        """Pack anew what was changed, and have the pair's forwards compiled if so chosen, which
        the rows share the time of.

        Args:
            pair: one of this object's.
            setup: of the decoder.
            rows: all requests.
            num_rows: decoded at once.
        """
        self.loading.packer.refresh()
        if not rows:
            return
        if pair.drafter != setup.drafter.name:  # the models cannot do what was asked for
            setup = setup.with_drafter(pair.drafter)
        work = Work(min(num_rows, len(rows)), sum(row.budget for row in rows), setup)
        spent = self.compiled.prepare(pair.target, pair.draft, work)
        for row in rows:
            row.statistics.seconds_compile += spent / len(rows)

    def clear(self) -> None:
        """Give up what all caches hold."""
        self.widest = 0
        for pair in (self.pair, *self.derived.values()):
            pair.clear()
