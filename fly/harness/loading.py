"""Loading of the draft model, and the check of its tokenizer.  The target is loaded by lm-eval's
HFLM.  The draft takes only `draft_dtype`, `draft_device` and `draft_revision` of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fly.engine.admission import compare_ids
from fly.engine.model.load import check_decoder_only
from fly.errors import ConfigError, FLyError, ModelError, quoted
from fly.harness.placement import measure_room, move_draft, roomiest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fly.config import FLyConfig

# Arguments of HFLM that leave the weights those of the checkpoint: how prompts and answers are
# read, in which batches, and where the weights lie.  Any other may change the target, and never
# holds for the draft.
_NEUTRAL = frozenset(
    {"backend", "batch_size", "device", "dtype", "logits_cache", "max_batch_size", "max_length"}
    | {"mixed_precision_dtype", "softmax_dtype", "truncation", "trust_remote_code"}
    | {"add_bos_token", "prefix_token_id", "tokenizer", "use_fast_tokenizer"}
    | {"chat_template_args", "enable_thinking", "think_end_token"}
    | {"attn_implementation", "device_map", "parallelize", "tp_plan"}
    | {"max_cpu_memory", "max_memory_per_gpu", "offload_folder"}
)
_UNKNOWN_ARGUMENT = re.compile(r"got an unexpected keyword argument '(\w+)'")
_SHOWN = 3  # differing ids quoted in an error


def compare_tokenizers(
    target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase, *, names: tuple[str, str]
) -> None:
    """Make sure that an id means the same string to both models; ids that only one of them has are
    allowed.

    Args:
        names: what to call the target's and the draft's tokenizer.

    Raises:
        ModelError: an id means two things, or there is no common id.
    """
    common, differing = compare_ids(target, draft)
    if common and not differing:
        return
    examples = ", ".join(
        f"id {index}: {one!r} and {other!r}"
        for index, (one, other) in islice(differing.items(), _SHOWN)
    )
    raise ModelError(
        f"the tokenizers of the target {names[0]!r} and the draft {names[1]!r} differ in "
        f"{len(differing)} of {len(common)} common ids{': ' + examples if examples else ''}",
        fix="choose a draft of the target's family, or set dual_tok: true, which allows differing "
        "tokenizers and translates between them",
    )


def find_template(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """The chat template of this name.

    Raises:
        ConfigError: the tokenizer has none.
    """
    known: Any = getattr(tokenizer, "chat_template", None)
    if not isinstance(known, dict):
        known = {} if known is None else {"default": known}
    if name not in known:
        names = ", ".join(map(repr, sorted(known))) or "none"
        raise ConfigError(
            f"--apply_chat_template names {quoted(name)}, but the target's tokenizer has no such "
            f"template: it has {names}",
            fix="name one of these; --apply_chat_template without a name takes the default",
        )
    template: str = known[name]
    return template


def load_draft_tokenizer(
    path: str, config: FLyConfig, *, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """The draft's own tokenizer, to be compared or to translate with.

    Raises:
        ModelError: it cannot be read, or the draft is an encoder-decoder model.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if config.draft_revision is not None:
        options["revision"] = config.draft_revision
    with opening("draft_model_path", path):
        config_of_draft = AutoConfig.from_pretrained(path, **options)
        check_decoder_only(config_of_draft, f"draft_model_path is {path!r}")
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **options)
    return tokenizer


def load_draft(
    path: str,
    config: FLyConfig,
    *,
    dtype: torch.dtype,
    devices: Sequence[torch.device],
    trust_remote_code: bool,
) -> PreTrainedModel:
    """The draft in evaluation mode, on the roomiest of `devices`.  These and `dtype` are the
    target's and hold unless the draft has its own.

    Raises:
        ModelError: it cannot be read, or has no room.
    """
    options: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "dtype": config.draft_dtype or dtype,
    }
    if config.draft_revision is not None:
        options["revision"] = config.draft_revision
    with opening("draft_model_path", path):
        model: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    room = measure_room()
    own = config.draft_device
    device = torch.device(own) if own is not None else roomiest(devices, room)
    return move_draft(model.eval(), path, device, room)


def is_same_model(config: FLyConfig, target_options: Mapping[str, Any]) -> bool:
    """Whether the draft is the very target, so that its weights are loaded once and serve both.

    Not so where the target differs from what its path alone means, or the draft from the target.
    """
    own = config.draft_dtype or config.draft_device or config.draft_revision
    given = {key for key, value in target_options.items() if value is not None}
    is_plain = given <= _NEUTRAL
    return config.target_model_path == config.draft_model_path and not own and is_plain


@contextmanager
def opening(key: str, path: str, options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn transformers' errors about a model that it cannot open into one of ours.

    Args:
        options: arguments passed on, of which the model's constructor may not take one.

    Raises:
        ModelError: names the setting with the model; the first line of the reason is kept.
    """
    try:
        yield
    except (FLyError, torch.OutOfMemoryError):
        raise
    # Files that are damaged make the libraries behind transformers raise errors of every kind.
    except Exception as error:
        unknown = _UNKNOWN_ARGUMENT.search(str(error)) if isinstance(error, TypeError) else None
        if unknown is not None and unknown[1] in (options or {}):
            name = unknown[1]
            raise ModelError(
                f"unknown model argument {name!r} (value {quoted((options or {})[name])}): "
                f"neither fly, lm-eval's hf nor the model {path!r} has it",
                fix="check its name, or leave it out",
            ) from error
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        kind = "" if isinstance(error, (OSError, ValueError)) and reason else type(error).__name__
        raise ModelError(
            f"{key} is {path!r}, which transformers could not open: "
            f"{': '.join(part for part in (kind, reason.strip()) if part)}",
            fix="check the name; a folder needs config.json, weights and tokenizer; "
            "a gated model needs access and a login (hf auth login)",
        ) from error
