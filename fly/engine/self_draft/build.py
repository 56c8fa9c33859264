"""The model of the drafter `self`, made of the loaded target.  It is a view of that model with
layers left out, or with linear layers in 8 bits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fly.drafting.self_draft import SelfSettings
from fly.engine.model.base import execution_device
from fly.engine.model.masks import num_positions
from fly.engine.self_draft.calibration_text import TEXT
from fly.engine.self_draft.int8 import in_int8
from fly.engine.self_draft.layer_search import LayerSet, search
from fly.engine.self_draft.layer_store import default_folder, find_or_search, key_of
from fly.engine.self_draft.model_view import layer_list, text_config, without_layers
from fly.errors import ConfigError, ModelError
from fly.places import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fly.drafting import DrafterSpec

logger = logging.getLogger(__name__)

SLOWER = (
    ". This model misses every one of its layers: choose another drafter, or how int8 where its "
    "matrices are large"
)


def derive_draft(
    target: Any, tokenizer: PreTrainedTokenizerBase, drafter: DrafterSpec
) -> PreTrainedModel:
    """Make the draft that `drafter_settings` ask for.  The target stays as it is.

    Args:
        target: a transformers model in evaluation mode.
        tokenizer: the target's.
        drafter: `self`, resolved.

    Raises:
        ConfigError: the calibration text cannot be read, or is too short.
        ModelError: it is no transformers model, its layers cannot be found, or see `view_of`.
    """
    if not isinstance(target, nn.Module):
        raise ModelError(
            f"{type(target).__name__} is no transformers model, so no draft can be made of it",
            fix="choose another drafter",
        )
    model: Any = target
    settings = drafter.settings
    assert isinstance(settings, SelfSettings)
    if settings.how == "int8":
        return in_int8(model)
    if settings.left_out is not None:
        return without_layers(model, settings.left_out)
    found = _find_layers(model, tokenizer, settings)
    logger.log(
        logging.INFO if found.speed >= 1 else logging.WARNING,
        "drafting without layers %s, which chooses as the target behind %.0f %% of the calibration "
        "text and reads %.0f %% of its weights: estimated %.2f times as fast as plain decoding%s",
        list(found.left_out),
        100 * found.agreement,
        100 * found.cost,
        found.speed,
        "" if found.speed >= 1 else SLOWER,
    )
    return without_layers(model, found.left_out)


def _find_layers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: SelfSettings
) -> LayerSet:
    """Those that were found at an earlier start, or by a search."""
    count = len(layer_list(model))
    if count < 2:
        raise ModelError(
            f"{type(model).__name__} has a single layer, which cannot be left out",
            fix='set drafter_settings to {"how": "int8"}, or choose another drafter',
        )
    ids = calibration_ids(model, tokenizer, settings)
    given = settings.cache_dir
    folder = user_path(given, "drafter_settings: cache_dir") if given else default_folder()
    key = key_of(model, ids, settings.keep)
    return find_or_search(folder, key, count, lambda: search(model, ids, settings.keep))


def calibration_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: SelfSettings
) -> Tensor:
    """The beginning of the calibration text, no longer than the model's context.  [1, T] int64.

    Raises:
        ConfigError: the file cannot be read, or has less than two tokens.
    """
    text, path = TEXT, settings.calibration_text
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"drafter_settings: calibration_text is {path!r}, which cannot be read ({error})",
                fix="name a UTF-8 text file, or leave it out for the text that comes with fly",
            ) from None
    room = num_positions(text_config(model)) or settings.calibration_tokens
    # Encoders warn of texts longer than the model's context, of which nothing is used.
    ids = tokenizer(text, verbose=False).input_ids[: min(settings.calibration_tokens, room)]
    if len(ids) < 2:
        raise ConfigError(
            f"drafter_settings: calibration_text is {path!r}, of {len(ids)} tokens",
            fix="name a text of some hundred tokens",
        )
    return torch.tensor([ids], device=execution_device(model))
