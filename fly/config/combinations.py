"""What single keys cannot tell: combinations that cannot work, and combinations that work but
loosen nothing, or turn answers into copies."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from fly.config.origin import Origin
from fly.errors import ConfigError, ConfigWarning

if TYPE_CHECKING:
    from fly.config.model import FLyConfig

# The largest value of each entropy; that of full nats depends on the vocabulary, unknown here.
LARGEST_ENTROPY = {"top3": math.log(3), "normalised": 1.0}


def refuse_impossible(config: FLyConfig, origin: Origin) -> None:
    """Raise `ConfigError` for a combination that cannot work."""
    _refuse_markers(config, origin)
    if config.drafter not in (None, "none") and not config.use_sd:
        raise ConfigError(
            f"{origin.of('drafter', 'use_sd')}: drafter is {config.drafter!r}, but use_sd is "
            "false: nothing is drafted",
            fix="set use_sd to true, or drop drafter",
        )
    meanings = {"tree_verify": "tree", "dual_tok": "other_tokenizer", "use_ngram": "multilevel"}
    asked = [key for key in meanings if getattr(config, key) and config.use_sd]
    for key in asked:
        # The official code, too, drafts trees without n-grams.
        allowed = (meanings[key], *(meanings[other] for other in asked[:1] if config.tree_verify))
        if config.drafter is not None and config.drafter not in allowed:
            raise ConfigError(
                f"{origin.of('drafter', key)}: drafter is {config.drafter!r}, but {key} is true, "
                f"which means {meanings[key]!r}",
                fix=f"set {key} to false to draft with {config.drafter!r}, or drop drafter",
            )
    if config.tree_verify and config.dual_tok:
        raise ConfigError(
            f"{origin.of('tree_verify', 'dual_tok')}: a tree is drafted in the target's own "
            "vocabulary, but dual_tok is true",
            fix="set one of them to false",
        )
    if not config.abla_no_window:
        return
    if config.acceptance not in (None, "fly"):
        raise ConfigError(
            f"{origin.of('abla_no_window', 'acceptance')}: abla_no_window is true, but acceptance "
            f"is {config.acceptance!r}, and it is FLy's window that is left out",
            fix="drop acceptance, or set abla_no_window to false",
        )
    if config.entropy_threshold is None:
        raise ConfigError(
            f"{origin.of('abla_no_window', 'entropy_thre')}: abla_no_window accepts what passes "
            f"the gate, but entropy_thre {config.entropy_thre!r} switches the official gate off: "
            "no gate mask exists",
            fix="set entropy_thre above 0.01 (official: 0.3), or abla_no_window to false",
        )


def _refuse_markers(config: FLyConfig, origin: Origin) -> None:
    """Of two markers, one of which holds the other, nobody could say which was seen last."""
    opening, closing = config.only_inside or ("<", ">")
    if opening in closing or closing in opening:
        raise ConfigError(
            f"{origin.of('only_inside')}: only_inside is {config.only_inside!r}, and one of these "
            "markers is part of the other",
            fix='give two different ones, such as ["<think>", "</think>"]',
        )


def is_inert(config: FLyConfig) -> bool:
    """Whether FLy was asked for but cannot loosen anything."""
    return config.uses_fly and (_is_short(config) or _is_shut(config))


def _is_short(config: FLyConfig) -> bool:
    """No mismatch has a whole window behind it."""
    return config.spd_k <= config.win_len and not config.abla_no_window


def _is_shut(config: FLyConfig) -> bool:
    """No mismatch passes the gate."""
    threshold = config.entropy_threshold
    return threshold is not None and threshold > _largest_entropy(config)


def _largest_entropy(config: FLyConfig) -> float:
    return LARGEST_ENTROPY.get(config.entropy_kind, math.inf)


def warn_of_inert(config: FLyConfig, origin: Origin) -> None:
    """Warn where FLy was asked for but cannot loosen, or a threshold was given but is no gate."""
    if not config.uses_fly:
        return
    k, window, given = config.spd_k, config.win_len, config.entropy_thre
    if _is_short(config):
        _warn(
            f"{origin.of('spd_k', 'win_len')}: spd_k {k} is not above win_len {window}: no "
            f"mismatch has {window} positions after it, so nothing is loosened. "
            f"Set spd_k to at least {window + 1}"
        )
    threshold = config.entropy_threshold
    where = origin.of("entropy_thre")
    if threshold is None and given:
        _warn(
            f"{where}: entropy_thre {given} is at most 0.01, which switches the gate off in the "
            "official variant. Set 0 to say so, or fly_variant to 'paper' or 'vllm' for so low "
            "a gate"
        )
    if _is_shut(config):
        largest = _largest_entropy(config)
        _warn(
            f"{where}: entropy_thre {threshold} is above {largest:.4f}, the largest "
            f"{config.entropy_kind} entropy: no mismatch passes the gate, so nothing is loosened"
        )


def warn_of_copies(config: FLyConfig, origin: Origin) -> None:
    """Warn where a loose rule has no effect since all that is drafted is copied, and where copied
    tokens may be loosened."""
    if config.is_overruled:
        _warn(
            f"{origin.of('drafter', 'acceptance')}: drafter {config.drafter_name!r} copies the "
            "context, and copies are never loosened, since answers would turn into copies of the "
            f"prompt (docs/acceptance.md): acceptance {config.asked_acceptance!r} has no effect, "
            "'native' decides. Set acceptance to 'native' to say so"
        )
    if config.loosens_copies and not is_inert(config):
        _warn(
            f"{origin.of('loosen_copied', 'drafter')}: loosen_copied is true, and drafter "
            f"{config.drafter_name!r} copies the context: answers may turn into copies of the "
            "prompt; with retrieval FLy lost 450 answers of 1,000 (docs/measured.md)"
        )


def _warn(message: str) -> None:
    # Points at the caller of FLyConfig(...); under FLyConfig.load the message names the place.
    warnings.warn(message, ConfigWarning, stacklevel=4)
