"""Model arguments of lm-eval, split into FLy's settings and HFLM's.  Everything that can be refused
without opening a model is reported here.  Imports neither torch nor lm-eval."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fly.config import FLyConfig
from fly.config.batch_size import num_searches, read_batch_size, read_max_batch_size
from fly.errors import ConfigError, ModelError, quoted
from fly.places import check_file, user_path

# Similarity from which an unknown model argument is taken for a misspelt setting of ours.
_NEAR = 0.8


@dataclass(frozen=True)
class ModelArguments:
    """One set of model arguments, checked: the configuration, and HFLM's keyword arguments without
    `pretrained`, with the batch sizes read."""

    config: FLyConfig
    target_path: str
    target: dict[str, Any]

    @classmethod
    def split(cls, arguments: Mapping[str, Any]) -> ModelArguments:
        """Take the settings of FLy out of lm-eval's model arguments and read the configuration file
        they name.

        `pretrained` is the draft model, as in the official command, and goes before
        `draft_model_path`.

        Raises:
            ConfigError: the configuration or a batch size is wrong, a model is not named or not
                there, or a bandit's state cannot be kept.
            ModelError: an encoder-decoder backend is asked for.
        """
        rest = dict(arguments)
        path = rest.pop("config_path", None)
        settings = {key: rest.pop(key) for key in list(rest) if key in FLyConfig.model_fields}
        draft = rest.pop("pretrained", None)
        if draft is not None:
            settings["draft_model_path"] = _one_draft(draft, settings.get("draft_model_path"))
        _refuse_misspelt(rest)
        if rest.get("backend") == "seq2seq":
            raise ModelError(
                "model argument backend is 'seq2seq', but speculative decoding needs a decoder",
                fix="leave backend out; evaluate encoder-decoder models with lm-eval's own hf "
                "model, without config_path",
            )
        _read_batch_sizes(rest)
        config = FLyConfig.load(path, settings)
        check_state(config)
        return cls(config, _require_models(config), rest)


def check_state(config: FLyConfig) -> None:
    """Try whether what a bandit learns can be kept.

    Raises:
        ConfigError: its `state` is no file and cannot become one.
    """
    state = getattr(config.setup.drafter.settings, "state", None)
    if isinstance(state, str):
        name = "drafter_settings: state"
        check_file(user_path(state, name), name)


def _read_batch_sizes(rest: dict[str, Any]) -> None:
    """Read them in place; None is as good as not given, as it is for lm-eval.

    Raises:
        ConfigError: one is wrong, or the processes of one model would have to find it.
    """
    for key, read in (("batch_size", read_batch_size), ("max_batch_size", read_max_batch_size)):
        value = rest.pop(key, None)
        if value is not None:
            rest[key] = read(value)
    if rest.get("tp_plan") is not None and num_searches(rest.get("batch_size", 1)):
        raise ConfigError(
            f"batch_size is {rest['batch_size']!r} with tp_plan {quoted(rest['tp_plan'])}, but the "
            "processes that hold one model together have to decode the same rows, and each would "
            "find another number by its own clock",
            fix="use a whole number, or leave tp_plan out",
        )


def _require_models(config: FLyConfig) -> str:
    """The target's path, after both models have been named and can be looked for.

    `FLyConfig` has refused a missing `./folder`; here goes what it may take for a name on the hub
    and is none.

    Raises:
        ConfigError: a model is not named, or names no folder and cannot be on the hub.
    """
    target, draft = config.target_model_path, config.draft_model_path
    if target is None:
        raise ConfigError(
            "target_model_path is missing: no model to evaluate",
            fix="name it in the configuration file (config_path=FILE) or among the model arguments",
        )
    if config.setup.traits.needs_model and draft is None:
        raise ConfigError(
            f"draft_model_path is missing, but drafter {config.drafter_name!r} drafts with a model",
            fix="add pretrained=DRAFT to the model arguments, or choose drafter=ngram",
        )
    for key, path in (("target_model_path", target), ("draft_model_path", draft)):
        if path is not None and (path.count("/") > 1 or "\\" in path) and not Path(path).is_dir():
            raise ConfigError(
                f"{key} is {path!r}, but there is no such folder",
                fix="give the folder that holds config.json, or a name on the hub: org/model",
            )
    return target


def _one_draft(pretrained: object, draft_model_path: object) -> object:
    if draft_model_path is not None and draft_model_path != pretrained:
        raise ConfigError(
            f"model arguments name two drafts: pretrained is {quoted(pretrained)}, "
            f"draft_model_path is {quoted(draft_model_path)}",
            fix="keep one of them; both mean the draft, the target is target_model_path",
        )
    return pretrained


def _refuse_misspelt(rest: Mapping[str, Any]) -> None:
    """What is left goes to HFLM, and from there to the model's constructor, which would fail late
    and obscurely."""
    for key in rest:
        near = difflib.get_close_matches(key, FLyConfig.model_fields, n=1, cutoff=_NEAR)
        if near:
            raise ConfigError(
                f"unknown model argument {key!r} (value {quoted(rest[key])})",
                fix=f"did you mean {near[0]!r}?",
            )
