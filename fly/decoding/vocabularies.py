"""Whether target and draft mean the same by an id, and which drafters may work with them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from fly.errors import ConfigError, FLyWarning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.drafting import DrafterSpec


def compare_ids(
    target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase
) -> tuple[list[int], dict[int, tuple[str, str]]]:
    """The ids that both have, and those among them that mean two strings."""
    target_strings = {index: token for token, index in target.get_vocab().items()}
    draft_strings = {index: token for token, index in draft.get_vocab().items()}
    common = sorted(target_strings.keys() & draft_strings.keys())
    pairs = {index: (target_strings[index], draft_strings[index]) for index in common}
    return common, {index: pair for index, pair in pairs.items() if pair[0] != pair[1]}


def share_ids(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase | None) -> bool:
    """Whether the draft's ids are the target's; None stands for the target's own tokenizer.  Ids
    that only one of them has are allowed.
    """
    if draft is None or draft is target:
        return True
    common, differing = compare_ids(target, draft)
    return bool(common) and not differing


def check_draft(
    drafter: DrafterSpec, *, has_draft: bool, has_tokenizer: bool, shares_ids: bool
) -> None:
    """Refuse a drafter whose draft model or tokenizer is missing, or that takes the draft's ids for
    the target's where they are not.

    Raises:
        ConfigError: it is so.
    """
    traits = drafter.traits
    if not traits.needs_model:
        return
    name = drafter.name
    if not has_draft:
        raise ConfigError(
            f"drafter {name!r} needs a draft model, and none was given",
            fix="give a draft, or choose drafter 'ngram' or use_sd: false",
        )
    if traits.own_tokenizer and not has_tokenizer:
        raise ConfigError(
            f"drafter {name!r} translates between two tokenizers, and the draft's was not given",
            fix="give draft_tokenizer, the tokenizer of the draft model, or choose drafter 'model' "
            "if it is the target's",
        )
    if not traits.own_tokenizer and not shares_ids:
        raise ConfigError(
            f"drafter {name!r} takes the draft's ids for the target's, but their tokenizers differ",
            fix="set dual_tok: true, or choose drafter 'other_tokenizer' or 'ngram'",
        )


def warn_of_idle_translation(drafter: DrafterSpec, shares_ids: bool) -> None:
    """Say so where a drafter translates between two tokenizers that are one."""
    if shares_ids and drafter.traits.own_tokenizer:
        warnings.warn(
            f"target and draft have the same tokenizer, so {drafter.name!r} has nothing to "
            "translate: drafter 'model' is faster",
            FLyWarning,
            stacklevel=3,  # whoever made the decoder
        )
