"""The settings that rules and drafters bring along, and which rule goes with which drafter at which
temperature.  What is not registered by name alone is judged by the class itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from fly.acceptance import rules
from fly.config import explain
from fly.config.origin import Origin
from fly.errors import ConfigError
from fly.registry import Registry, drafters
from fly.settings import Temperatures

if TYPE_CHECKING:
    from fly.config.model import FLyConfig

# Known to go with one another at any temperature: where they have no settings to check, their
# classes, and with them torch, need not be imported to say so.
PLAIN_RULES = frozenset({"native", "fly"})
PLAIN_DRAFTERS = frozenset({"none", "model", "multilevel"})


def check(config: FLyConfig, origin: Origin) -> None:
    """Raise `ConfigError` for settings that rule or drafter do not have, and for a rule and a
    drafter that do not go together."""
    acceptance, drafter = config.asked_acceptance, config.drafter_name
    is_plain = acceptance in PLAIN_RULES and drafter in PLAIN_DRAFTERS
    if is_plain and not config.acceptance_settings and not config.drafter_settings:
        return
    chosen = (
        ("acceptance_settings", rules, acceptance, config.acceptance_settings),
        ("drafter_settings", drafters, drafter, config.drafter_settings),
    )
    for key, registry, name, settings in chosen:
        _check_settings(f"{origin.of(key)}: {key}", registry, name, settings)
    if drafter == "none":
        return
    rule, traits = config.asked_rule, config.drafter_traits
    where = origin.of("acceptance", "drafter")
    if rule.needs_draft_probs and not traits.gives_probs:
        raise ConfigError(
            f"{where}: acceptance {acceptance!r} compares the distributions of target and draft, "
            f"but drafter {drafter!r} has none to give",
            fix="draft with 'model', or choose another rule",
        )
    if traits.is_tree and (rule.needs_draft_probs or rule.needs_law):
        raise ConfigError(
            f"{where}: acceptance {acceptance!r} decides by the law that a chain is drawn from, "
            f"but drafter {drafter!r} offers trees, of which nothing is drawn",
            fix="draft with 'model', or choose another rule",
        )
    if config.draft_length == "adaptive" and (traits.is_tree or traits.is_timed):
        raise ConfigError(
            f"{origin.of('draft_length', 'drafter')}: draft_length is 'adaptive', but drafter "
            f"{drafter!r} settles itself how much it offers",
            fix="set draft_length to 'fixed', or draft with 'model'",
        )
    misfit = misfit_at(config, config.temperature)
    if misfit is not None:
        kind, why = misfit
        raise ConfigError(
            f"{origin.of('temperature', kind)}: {why}",
            fix=f"set temperature to another value, or choose another {kind}",
        )


def misfit_at(config: FLyConfig, temperature: float) -> tuple[str, str] | None:
    """Which of rule and drafter, `acceptance` or `drafter`, cannot decode at a temperature, and why
    not; None if both can, and where nothing is drafted.
    """
    if config.drafter_name == "none":
        return None
    rule = config.asked_rule
    chosen = (
        ("acceptance", config.asked_acceptance, rule.temperatures),
        ("drafter", config.drafter_name, config.drafter_traits.temperatures),
    )
    for kind, name, temperatures in chosen:
        why = misfit_of(temperatures, temperature)
        if why:
            return kind, f"{kind} is {name!r}, {why}"
    return None


def misfit_of(temperatures: Temperatures, temperature: float) -> str:
    """Why a temperature is none for which something is meant; empty if it is."""
    if temperatures == "greedy" and temperature > 0:
        return f"which decodes greedily, but temperature is {temperature}"
    if temperatures == "sampled" and temperature == 0:
        return "which decides where tokens are drawn, but temperature is 0"
    return ""


def all_settings_models() -> Iterator[type[BaseModel]]:
    """Those of all rules and drafters."""
    for registry in (rules, drafters):
        for name in registry:
            entry: Any = registry.get(name)
            yield entry.settings_model()


def settings_models(acceptance: object, drafter: object) -> dict[str, type[BaseModel]]:
    """What a rule and a drafter of these names may be told, by the key it stands under."""
    models = {}
    if isinstance(acceptance, str) and acceptance in rules:
        models["acceptance_settings"] = rules.get(acceptance).settings_model()
    if isinstance(drafter, str) and drafter in drafters:
        models["drafter_settings"] = drafters.get(drafter).settings_model()
    return models


def _check_settings(
    where: str, registry: Registry[Any], name: str, settings: dict[str, Any]
) -> None:
    model = registry.get(name).settings_model()
    try:
        model.model_validate(settings)
    except ValidationError as error:
        title = f"{where} of {registry.kind} {name!r}"
        raise explain.settings_error(error, title, model.model_json_schema()) from None
