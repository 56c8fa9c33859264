"""Settings of drafters, and `DrafterSpec`, a resolved drafter.  No torch here: a configuration is
checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field, SerializeAsAny

from fly.settings import STRICT, OfficialKeys, Traits


class DrafterSpec(BaseModel):
    """One drafter, resolved: nothing of it depends on the configuration any more."""

    model_config = STRICT

    name: str
    k: int  # spd_k: tokens that it offers in one round at most
    settings: SerializeAsAny[BaseModel]  # its own, and the official keys that it reads
    traits: Traits = Field(exclude=True, repr=False)

    @property
    def spd_k(self) -> int:
        """K, by its official name."""
        return self.k

    @property
    def drafter_settings(self) -> dict[str, Any]:
        """The settings as a dictionary."""
        return self.settings.model_dump()


Describe: TypeAlias = Callable[[str, Mapping[str, Any], OfficialKeys], DrafterSpec]


class DrafterSettings(BaseModel):
    """Settings of a drafter that read official keys, or that set its traits."""

    model_config = STRICT

    @classmethod
    def resolved(
        cls, given: Mapping[str, Any], official: OfficialKeys, describe: Describe
    ) -> DrafterSettings:
        """The settings with what the official keys add.

        Args:
            given: `drafter_settings`, checked already.
            official: the official keys.
            describe: resolves another drafter, for those that consist of several.

        Raises:
            ConfigError: settings and keys contradict each other.
        """
        return cls.model_validate(given)

    @property
    def traits(self) -> Traits:
        """What the drafter needs and gives with these settings."""
        return Traits()


# Of several occurrences of an n-gram the one that is continued.
Which: TypeAlias = Literal["earliest", "latest"]

# What a guessed token adds to a forward of the embedded draft on one core (AVX-512, float32, 200
# tokens before it), as a share of one without: 0.02 at batch 1, 0.05 at batch 8, 0.13 at batch 32.
GUESS_COST = 0.05


class PlainSettings(DrafterSettings):
    """Of no drafting at all."""


class ChainSettings(DrafterSettings):
    """Of the draft model's chain: K is all there is to set."""

    @property
    def traits(self) -> Traits:
        """Needs a draft model."""
        return Traits(needs_model=True, gives_probs=True, is_official=True, asks_pace=True)


class NgramSettings(DrafterSettings):
    """How texts are looked up."""

    match: Which = Field(
        "earliest",
        description="Which of several occurrences is continued. earliest: as the released code.",
    )

    @classmethod
    def resolved(
        cls, given: Mapping[str, Any], official: OfficialKeys, describe: Describe
    ) -> ResolvedNgram:
        """With max_ngram_size."""
        return ResolvedNgram(**given, max_ngram=official.max_ngram_size)

    @property
    def traits(self) -> Traits:
        """All that it offers is copied, and may be worth nothing."""
        return Traits(copies_context=True, adapts=True)


class ResolvedNgram(NgramSettings):
    """With the official key."""

    max_ngram: int  # longest suffix that is looked up, tokens


class MultilevelSettings(DrafterSettings):
    """Where guesses come from and when they are made; proposals do not depend on it."""

    guess: Literal["ngram", "suffix"] = Field(
        "ngram",
        description="What is looked up in the text: its last 1 to max_ngram_size tokens, or its "
        "longest suffix that occurred before.",
    )
    match: Which = Field(
        "latest",
        description="ngram: which of several occurrences is continued. earliest: of the text, as "
        "the released code; latest: of all that was committed or drafted, in fewer forwards.",
    )
    guess_cost: float = Field(
        GUESS_COST,
        ge=0,
        description="What a guessed token adds to a forward of the draft model, as a share of a "
        "forward without one. Guesses are made where and as far as they pay by it; 0: always.",
    )

    @classmethod
    def resolved(
        cls, given: Mapping[str, Any], official: OfficialKeys, describe: Describe
    ) -> ResolvedMultilevel:
        """With max_ngram_size and num_ngram_pred_tokens."""
        length = official.num_ngram_pred_tokens
        return ResolvedMultilevel(**given, max_ngram=official.max_ngram_size, guess_length=length)

    @property
    def traits(self) -> Traits:
        """Needs a draft model."""
        return Traits(needs_model=True, gives_probs=True, is_official=True)


class ResolvedMultilevel(MultilevelSettings):
    """With the official keys."""

    max_ngram: int  # longest suffix that is looked up, tokens
    guess_length: int  # tokens that one lookup guesses at most


class TreeSettings(DrafterSettings):
    """Of trees: the official keys are all there is to set."""

    @classmethod
    def resolved(
        cls, given: Mapping[str, Any], official: OfficialKeys, describe: Describe
    ) -> ResolvedTree:
        """With branch_n, max_nodes_per_level and max_nodes_global."""
        keys = {"branch_n": official.branch_n, "level_n": official.max_nodes_per_level}
        return ResolvedTree(**given, **keys, total_n=official.max_nodes_global)

    @property
    def traits(self) -> Traits:
        """Needs a draft model, and one that reads trees."""
        return Traits(needs_model=True, is_chain=False, is_tree=True)


class ResolvedTree(TreeSettings):
    """With the official keys."""

    branch_n: int  # followers tried of every token
    level_n: int  # tokens kept of every level
    total_n: int  # tokens kept in all
