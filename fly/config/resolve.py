"""Resolution of a configuration's keys into a `Setup`.  Pairs of keys that cannot work are refused.
Pairs that work but loosen nothing, or turn answers into copies, are warned of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from fly.config.messages import Origin
from fly.config.settings import Keys
from fly.config.setup import (
    GuardSettings,
    Models,
    Setup,
    describe_drafter,
    resolve_rule,
)
from fly.errors import ConfigError, ConfigWarning
from fly.settings import NO_DRAFTER

# The largest value of each entropy; that of full nats depends on the vocabulary, unknown here.
LARGEST_ENTROPY = {"top3": math.log(3), "normalised": 1.0}


def resolve(keys: Keys, origin: Origin) -> Setup:
    """The setup that the keys mean.

    Raises:
        ConfigError: settings that rule or drafter do not have, or a combination that cannot work.

    Warns:
        ConfigWarning: see FLyConfig.
    """
    _refuse_markers(keys, origin)
    _refuse_two_drafters(keys, origin)
    _refuse_other_rule(keys, origin)
    where = {key: f"{origin.of(key)}: {key}" for key in ("acceptance_settings", "drafter_settings")}
    official = keys.official
    setup = Setup(
        asked_name=keys.asked_acceptance,
        asked=resolve_rule(
            keys.asked_acceptance, keys.acceptance_settings, official, where["acceptance_settings"]
        ),
        drafter=describe_drafter(
            keys.drafter_name, keys.drafter_settings, official, where["drafter_settings"]
        ),
        official=official,
        guards=GuardSettings(
            protect_special_tokens=keys.protect_special_tokens,
            protect_stop_strings=keys.protect_stop_strings,
            strict_first_n=keys.strict_first_n,
            only_inside=tuple(keys.only_inside) if keys.only_inside else None,
            loosen_copied=keys.loosen_copied,
        ),
        models=Models(
            keys.target_model_path,
            keys.draft_model_path,
            keys.draft_dtype,
            keys.draft_device,
            keys.draft_revision,
        ),
        temperature=keys.temperature,
        total_gen_tok=keys.total_gen_tok,
        asked_length=keys.draft_length,
        counts_official=keys.enable_statistics,
        is_verbose=keys.verbose,
        packed=keys.packed,
        compiles=keys.compile,
    )
    _refuse_missing_gate(setup, origin)
    _refuse_misfits(setup, origin)
    _warn_of_inert(setup, origin)
    _warn_of_copies(setup, origin)
    return setup


def drafter_keys(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys that make `name` the drafter, whatever was set before."""
    is_plain = name == NO_DRAFTER
    return {
        "use_sd": not is_plain,
        "drafter": None if is_plain else name,
        "drafter_settings": dict(settings or {}),
        "use_ngram": False,
        "tree_verify": False,
        "dual_tok": False,
    }


def rule_keys(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys that make `name` the rule, whatever was set before; FLy keeps its ablation."""
    keys = {"acceptance": name, "acceptance_settings": dict(settings or {})}
    return keys if name == "fly" else keys | {"abla_no_window": False}


def _refuse_markers(keys: Keys, origin: Origin) -> None:
    """Of two markers, one of which holds the other, it is undecidable which was seen last."""
    opening, closing = keys.only_inside or ("<", ">")
    if opening in closing or closing in opening:
        raise ConfigError(
            f"{origin.of('only_inside')}: only_inside is {keys.only_inside!r}, and one of these "
            "markers is part of the other",
            fix='give two different ones, such as ["<think>", "</think>"]',
        )


def _refuse_two_drafters(keys: Keys, origin: Origin) -> None:
    """Keys that name different drafters."""
    if keys.drafter not in (None, NO_DRAFTER) and not keys.use_sd:
        raise ConfigError(
            f"{origin.of('drafter', 'use_sd')}: drafter is {keys.drafter!r}, but use_sd is "
            "false: nothing is drafted",
            fix="set use_sd to true, or drop drafter",
        )
    meanings = {"tree_verify": "tree", "dual_tok": "other_tokenizer", "use_ngram": "multilevel"}
    asked = [key for key in meanings if getattr(keys, key) and keys.use_sd]
    for key in asked:
        # The official code, too, drafts trees without n-grams.
        allowed = (meanings[key], *(meanings[other] for other in asked[:1] if keys.tree_verify))
        if keys.drafter is not None and keys.drafter not in allowed:
            raise ConfigError(
                f"{origin.of('drafter', key)}: drafter is {keys.drafter!r}, but {key} is true, "
                f"which means {meanings[key]!r}",
                fix=f"set {key} to false to draft with {keys.drafter!r}, or drop drafter",
            )
    if keys.tree_verify and keys.dual_tok:
        raise ConfigError(
            f"{origin.of('tree_verify', 'dual_tok')}: a tree is drafted in the target's own "
            "vocabulary, but dual_tok is true",
            fix="set one of them to false",
        )


def _refuse_other_rule(keys: Keys, origin: Origin) -> None:
    """The ablation is FLy's."""
    if keys.abla_no_window and keys.acceptance not in (None, "fly"):
        raise ConfigError(
            f"{origin.of('abla_no_window', 'acceptance')}: abla_no_window is true, but acceptance "
            f"is {keys.acceptance!r}, and it is FLy's window that is left out",
            fix="drop acceptance, or set abla_no_window to false",
        )


def _refuse_missing_gate(setup: Setup, origin: Origin) -> None:
    """The ablation accepts what passes the gate, so there has to be one."""
    official = setup.official
    if official.abla_no_window and getattr(setup.asked, "threshold", 0) is None:
        raise ConfigError(
            f"{origin.of('abla_no_window', 'entropy_thre')}: abla_no_window accepts what passes "
            f"the gate, but entropy_thre {official.entropy_thre!r} switches the official gate off: "
            "no gate mask exists",
            fix="set entropy_thre above 0.01 (official: 0.3), or abla_no_window to false",
        )


def _refuse_misfits(setup: Setup, origin: Origin) -> None:
    """A rule and a drafter that do not go together, or not at this temperature."""
    if setup.is_plain:
        return
    rule, traits = setup.asked, setup.traits
    where = origin.of("acceptance", "drafter")
    if rule.needs_draft_probs and not traits.gives_probs:
        raise ConfigError(
            f"{where}: acceptance {setup.asked_name!r} compares the distributions of target and "
            f"draft, but drafter {setup.drafter.name!r} has none to give",
            fix="draft with 'model', or choose another rule",
        )
    if traits.is_tree and (rule.needs_draft_probs or rule.needs_law):
        raise ConfigError(
            f"{where}: acceptance {setup.asked_name!r} decides by the law that a chain is drawn "
            f"from, but drafter {setup.drafter.name!r} offers trees, of which nothing is drawn",
            fix="draft with 'model', or choose another rule",
        )
    if setup.asked_length == "adaptive" and (traits.is_tree or traits.is_timed):
        raise ConfigError(
            f"{origin.of('draft_length', 'drafter')}: draft_length is 'adaptive', but drafter "
            f"{setup.drafter.name!r} settles itself how much it offers",
            fix="set draft_length to 'fixed', or draft with 'model'",
        )
    misfit = setup.misfit_at(setup.temperature)
    if misfit is not None:
        kind, why = misfit
        raise ConfigError(
            f"{origin.of('temperature', kind)}: {why}",
            fix=f"set temperature to another value, or choose another {kind}",
        )


def is_inert(setup: Setup) -> bool:
    """Whether FLy was asked for but cannot loosen anything."""
    return _is_short(setup) or _is_shut(setup)


def _is_short(setup: Setup) -> bool:
    """No mismatch has a whole window after it."""
    rule = setup.fly_rule
    return rule is not None and setup.drafter.k <= rule.window and not rule.no_window


def _is_shut(setup: Setup) -> bool:
    """No mismatch passes the gate."""
    rule = setup.fly_rule
    if rule is None or rule.threshold is None:
        return False
    return rule.threshold > LARGEST_ENTROPY.get(rule.entropy, math.inf)


def _warn_of_inert(setup: Setup, origin: Origin) -> None:
    """Warn where FLy was asked for but cannot loosen, or a threshold was given but is no gate."""
    rule = setup.fly_rule
    if rule is None:
        return
    k, window, given = setup.drafter.k, rule.window, setup.official.entropy_thre
    if _is_short(setup):
        _warn(
            f"{origin.of('spd_k', 'win_len')}: spd_k {k} is not above win_len {window}: no "
            f"mismatch has {window} positions after it, so nothing is loosened. "
            f"Set spd_k to at least {window + 1}"
        )
    where = origin.of("entropy_thre")
    if rule.threshold is None and given:
        _warn(
            f"{where}: entropy_thre {given} is at most 0.01, which switches the gate off in the "
            "official variant. Set 0 to say so, or fly_variant to 'paper' or 'vllm' for so low "
            "a gate"
        )
    if _is_shut(setup):
        _warn(
            f"{where}: entropy_thre {rule.threshold} is above {LARGEST_ENTROPY[rule.entropy]:.4f}, "
            f"the largest {rule.entropy} entropy: no mismatch passes the gate, so nothing is "
            "loosened"
        )


def _warn_of_copies(setup: Setup, origin: Origin) -> None:
    """Warn where a loose rule has no effect since all that is drafted is copied, and where copied
    tokens may be loosened."""
    name = setup.drafter.name
    if setup.is_overruled:
        _warn(
            f"{origin.of('drafter', 'acceptance')}: drafter {name!r} copies the "
            "context, and copies are never loosened, since answers would turn into copies of the "
            f"prompt (docs/acceptance.md): acceptance {setup.asked_name!r} has no effect, "
            "'native' decides. Set acceptance to 'native' to say so"
        )
    if setup.loosens_copies and not is_inert(setup):
        _warn(
            f"{origin.of('loosen_copied', 'drafter')}: loosen_copied is true, and drafter "
            f"{name!r} copies the context: answers may turn into copies of the "
            "prompt; with retrieval FLy lost 450 answers of 1,000 (docs/measured.md)"
        )


def _warn(message: str) -> None:
    # Points at the caller of FLyConfig(...); under FLyConfig.load the message names the place.
    warnings.warn(message, ConfigWarning, stacklevel=5)
