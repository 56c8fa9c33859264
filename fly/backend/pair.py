"""The second model of the pair: whether its tokenizer fits the target's, and loading it.

The target is loaded by lm-eval's HFLM.  The draft takes only `draft_dtype`, `draft_device` and
`draft_revision` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fly.errors import FLyError, ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from fly.config import FLyConfig

# Arguments of HFLM that change the target and never hold for the draft.
_ALTERING = (
    "peft",
    "delta",
    "subfolder",
    "gguf_file",
    "revision",
    "autogptq",
    "gptqmodel",
    "load_in_8bit",
    "load_in_4bit",
)
_SHOWN = 3  # differing ids quoted in an error


def check_decoder_only(model_config: PretrainedConfig, key: str, path: str) -> None:
    """Refuse an encoder-decoder model.

    Raises:
        ModelError: the model has an encoder.
    """
    if getattr(model_config, "is_encoder_decoder", False):
        raise ModelError(
            f"{key} is {path!r}, an encoder-decoder model ({model_config.model_type}); "
            "speculative decoding needs a decoder-only model",
            fix="use lm-eval's own hf model, without config_path, for encoder-decoder models",
        )


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
    target_strings = {index: token for token, index in target.get_vocab().items()}
    draft_strings = {index: token for token, index in draft.get_vocab().items()}
    common = sorted(target_strings.keys() & draft_strings.keys())
    differing = [index for index in common if target_strings[index] != draft_strings[index]]
    if common and not differing:
        return
    examples = ", ".join(
        f"id {index}: {target_strings[index]!r} and {draft_strings[index]!r}"
        for index in differing[:_SHOWN]
    )
    raise ModelError(
        f"the tokenizers of the target {names[0]!r} and the draft {names[1]!r} differ in "
        f"{len(differing)} of {len(common)} common ids{': ' + examples if examples else ''}",
        fix="choose a draft of the target's family; dual_tok will allow differing tokenizers, "
        "but is not built yet",
    )


def load_draft_tokenizer(
    path: str, config: FLyConfig, *, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """The draft's own tokenizer, read only to be compared.

    Raises:
        ModelError: it cannot be read, or the draft is an encoder-decoder model.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if config.draft_revision is not None:
        options["revision"] = config.draft_revision
    with opening("draft_model_path", path):
        check_decoder_only(AutoConfig.from_pretrained(path, **options), "draft_model_path", path)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **options)
    return tokenizer


def load_draft(
    path: str,
    config: FLyConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    trust_remote_code: bool,
) -> PreTrainedModel:
    """The draft in evaluation mode.  `dtype` and `device` are the target's and hold unless the
    draft has its own.

    Raises:
        ModelError: it cannot be read.
    """
    options: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "dtype": config.draft_dtype or dtype,
    }
    if config.draft_revision is not None:
        options["revision"] = config.draft_revision
    with opening("draft_model_path", path):
        model: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    draft: PreTrainedModel = model.to(config.draft_device or device).eval()
    return draft


def is_same_model(config: FLyConfig, target_options: dict[str, Any]) -> bool:
    """Whether the draft is the very target, so that its weights are loaded once and serve both.

    Not so where the target differs from what its path alone means, or the draft from the target.
    """
    own = config.draft_dtype or config.draft_device or config.draft_revision
    altered = any(target_options.get(key) for key in _ALTERING)
    return config.target_model_path == config.draft_model_path and not own and not altered


@contextmanager
def opening(key: str, path: str) -> Iterator[None]:
    """Turn transformers' errors about a model that it cannot open into one of ours.

    Raises:
        ModelError: says which setting named the model; the first line of the reason is kept.
    """
    try:
        yield
    except FLyError:
        raise
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{key} is {path!r}, which transformers could not open: {reason}",
            fix="check the name; a folder needs config.json, weights and tokenizer; "
            "a gated model needs access and a login (hf auth login)",
        ) from error
