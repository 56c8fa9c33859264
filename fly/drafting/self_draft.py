"""The drafter `self`, which drafts with the target's own weights.  No second checkpoint: layers are
left out (Draft & Verify, arXiv 2309.08168), or linear layers are in 8 bits (after ML-SpecQD, arXiv
2503.13565).  That model is made in fly/engine/self_draft/build.py; drafting is chain drafting."""

# ML-SpecQD casts weights to MXFP4, 4 bits with a scale for every 32 of them, and leaves activations
# in 16 bits.

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fly.drafting.chain import ModelDrafter
from fly.drafting.settings import DrafterSettings
from fly.settings import Traits

LAYERS_ONLY = ("left_out", "keep", "calibration_text", "calibration_tokens", "cache_dir")
SEARCH_ONLY = LAYERS_ONLY[1:]


class SelfSettings(DrafterSettings):
    """What a draft is made of the target by."""

    how: Literal["layers", "int8"] = Field(
        "layers",
        description="layers: leave some decoder layers out. int8: linear layers in 8 bits, weights "
        "quantised once, what goes in as it comes.",
    )
    left_out: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=1,
        description="layers: the numbers, from 0, of those left out; null: searched on the "
        "calibration text.",
    )
    keep: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="layers: share of the layers that stays; null: as many as give the best "
        "estimated speed.",
    )
    calibration_text: str | None = Field(
        None,
        min_length=1,
        description="layers: a UTF-8 file on which the search compares choices with the target's, "
        "relative to the current directory; null: a short text that comes with fly.",
    )
    calibration_tokens: int = Field(
        512, ge=2, description="layers: how much of that text is read, tokens."
    )
    cache_dir: str | None = Field(
        None,
        min_length=1,
        description="layers: folder that keeps what was found, so that a second start does not "
        "search; null: fly/self in the user's cache directory.",
    )

    @property
    def traits(self) -> Traits:
        """Needs no draft model to be loaded."""
        return Traits(derives_model=True, gives_probs=True, adapts=True, asks_pace=True)

    @model_validator(mode="after")
    def _belong_together(self) -> SelfSettings:
        """Refuse settings that would have no effect."""
        given = self.model_fields_set
        unused = LAYERS_ONLY if self.how == "int8" else SEARCH_ONLY if self.left_out else ()
        idle = next((name for name in unused if name in given), None)
        if idle is not None:
            why = "with how int8" if self.how == "int8" else "where left_out names the layers"
            raise ValueError(f"{idle} has no effect {why}")
        return self


class SelfDrafter(ModelDrafter):
    """Chain drafting by a model that the engine makes of the target."""

    own_settings = SelfSettings
