"""`Setup`, a resolved configuration.  It holds the rule, the drafter and their limits.  Engine and
workbench read it, and never the keys that it was written in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from fly.acceptance import rules
from fly.acceptance.base import Rule
from fly.acceptance.fly import FlyRule
from fly.config.messages import settings_error
from fly.drafting import drafters
from fly.drafting.settings import DrafterSettings, DrafterSpec
from fly.registry import Registry
from fly.settings import NO_DRAFTER, OfficialKeys, Temperatures, Traits

NATIVE = "native"


@dataclass(frozen=True)
class GuardSettings:
    """Settings of the guards, where no rule may loosen anything."""

    protect_special_tokens: bool = True
    protect_stop_strings: bool = True
    strict_first_n: int = 0
    only_inside: tuple[str, ...] | None = None  # two markers
    loosen_copied: bool = False


@dataclass(frozen=True)
class Models:
    """Names of the models, and how the draft is loaded."""

    target: str | None = None
    draft: str | None = None
    draft_dtype: str | None = None
    draft_device: str | None = None
    draft_revision: str | None = None


@dataclass(frozen=True)
class Setup:
    """A rule and a drafter with all that changes the text or is counted."""

    asked_name: str  # of the rule that was asked for
    asked: Rule
    drafter: DrafterSpec
    official: OfficialKeys
    guards: GuardSettings = GuardSettings()
    models: Models = Models()
    temperature: float = 0.0
    total_gen_tok: int | None = None
    asked_length: Literal["fixed", "adaptive"] | None = None
    counts_official: bool = False
    is_verbose: bool = False
    packed: Literal["auto", "on", "off"] = "auto"  # copies of linear layers' weights
    compiles: Literal["auto", "off", "on"] = "auto"  # no part of the text: see `fingerprint`

    @property
    def traits(self) -> Traits:
        """Of the drafter."""
        return self.drafter.traits

    @property
    def is_plain(self) -> bool:
        """Whether nothing is drafted."""
        return self.drafter.name == NO_DRAFTER

    @property
    def is_overruled(self) -> bool:
        """Whether native acceptance takes the place of the loose rule that was asked for: all that
        is drafted is copied (docs/acceptance.md)."""
        may_loosen = self.guards.loosen_copied or not self.traits.copies_context
        return not may_loosen and not self.asked.is_lossless

    @property
    def rule_name(self) -> str:
        """Which rule decides."""
        return NATIVE if self.is_overruled else self.asked_name

    @property
    def rule(self) -> Rule:
        """The rule that decides."""
        if not self.is_overruled:
            return self.asked
        return rules.get(NATIVE).resolved({}, self.official)

    @property
    def is_loose(self) -> bool:
        """Whether the text can differ from the target's own (sampled: its distribution)."""
        return not self.is_plain and not self.is_overruled and not self.asked.is_lossless

    @property
    def fly_rule(self) -> FlyRule | None:
        """FLy with its window and gate, if it is what decides."""
        rule = None if self.is_plain else self.rule
        return rule if isinstance(rule, FlyRule) else None

    @property
    def draft_length(self) -> Literal["fixed", "adaptive"]:
        """How long proposals are; left open, they follow the clock only where text does not."""
        if self.asked_length is not None:
            return self.asked_length
        return "adaptive" if self.traits.adapts and not self.is_loose else "fixed"

    @property
    def loosens_copies(self) -> bool:
        """Whether tokens that a drafter copied may be loosened."""
        copies = self.traits.copies_context or self.traits.copies_partly
        return self.guards.loosen_copied and copies and self.is_loose

    def with_drafter(
        self, name: str, settings: Mapping[str, Any] | None = None, k: int | None = None
    ) -> Setup:
        """The same with another drafter, or with another K.

        Raises:
            ConfigError: there is no such drafter, or it has no such settings.
        """
        official = replace(self.official, spd_k=self.official.spd_k if k is None else k)
        spec = describe_drafter(name, settings or {}, official)
        return replace(self, drafter=spec, official=official)

    def with_rule(self, name: str, settings: Mapping[str, Any] | None = None) -> Setup:
        """The same with another rule.

        Raises:
            ConfigError: there is no such rule, or it has no such settings.
        """
        rule = resolve_rule(name, settings or {}, self.official)
        return replace(self, asked_name=name, asked=rule)

    def misfit_at(self, temperature: float) -> tuple[str, str] | None:
        """Which of rule and drafter, `acceptance` or `drafter`, cannot decode at a temperature, and
        why not; None if both can, and where nothing is drafted."""
        if self.is_plain:
            return None
        chosen = (
            ("acceptance", self.asked_name, self.asked.temperatures),
            ("drafter", self.drafter.name, self.traits.temperatures),
        )
        for kind, name, temperatures in chosen:
            why = misfit_of(temperatures, temperature)
            if why:
                return kind, f"{kind} is {name!r}, {why}"
        return None

    @property
    def drafting(self) -> dict[str, Any]:
        """What changes proposals, their lengths apart; fit for JSON."""
        return {"drafter": self.drafter.name, **self.drafter.settings.model_dump(mode="json")}

    def fingerprint(self) -> str:
        """SHA-256 over what can change the text: two ways to write one setup agree."""
        known: dict[str, Any] = {
            "target": self.models.target,
            "temperature": self.temperature,
            "total_gen_tok": self.total_gen_tok,
            "drafter": self.drafter.name,
            "packed": self.packed,
        }
        if not self.is_plain:
            known["rule"] = type(self.rule).__name__, self.rule.deciding
            known["drafting"] = self.drafter.k, self.drafting
            # Of a row that is sampled, one that was asked for follows the clock, another does not.
            known["draft_length"] = self.draft_length, self.asked_length == "adaptive"
        if self.traits.needs_model:
            models = self.models
            known["draft"] = models.draft, models.draft_dtype, models.draft_revision
        if self.is_loose:
            known["guards"] = asdict(self.guards)
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def misfit_of(temperatures: Temperatures, temperature: float) -> str:
    """Why a temperature is none for which something is meant; empty if it is."""
    if temperatures == "greedy" and temperature > 0:
        return f"which decodes greedily, but temperature is {temperature}"
    if temperatures == "sampled" and temperature == 0:
        return "which decides where tokens are drawn, but temperature is 0"
    return ""


def resolve_rule(
    name: str, given: Mapping[str, Any], official: OfficialKeys, where: str = "acceptance_settings"
) -> Rule:
    """The rule that a name, its settings and the official keys mean.

    Raises:
        ConfigError: there is no such rule, or it has no such settings.
    """
    checked = _checked(where, rules, name, given)
    return rules.get(name).resolved(checked.model_dump(exclude_unset=True), official)


def describe_drafter(
    name: str, given: Mapping[str, Any], official: OfficialKeys, where: str = "drafter_settings"
) -> DrafterSpec:
    """The drafter that a name, its settings and the official keys mean.

    Raises:
        ConfigError: there is no such drafter, or it has no such settings.
    """
    settings, traits = _checked(where, drafters, name, given), Traits()
    if isinstance(settings, DrafterSettings):
        known = settings.model_dump(exclude_unset=True)
        settings = settings.resolved(known, official, describe_drafter)
        traits = settings.traits
    spec = DrafterSpec(name=name, k=official.spd_k, settings=settings, traits=traits)
    if drafters.is_known_by_settings(name):
        return spec
    # A class from outside may define its own traits.
    return spec.model_copy(update={"traits": drafters.get(name).traits(spec)})


def _checked(where: str, registry: Registry[Any], name: str, given: Mapping[str, Any]) -> BaseModel:
    """The settings as they were read; what they warn of is said here and not again."""
    model = registry.settings_of(name)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        title = f"{where} of {registry.kind} {name!r}"
        raise settings_error(error, title, model.model_json_schema()) from None
