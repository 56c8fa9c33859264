"""How far a model's positions reach.

Rotary frequencies of two kinds depend on the longest position in a forward, which ragged rows share
(transformers, modeling_rope_utils.dynamic_rope_update): "dynamic" ones grow with it behind
max_position_embeddings, and "longrope" changes from the short to the long factors behind
original_max_position_embeddings.  Up to there they are fixed, so there such a model's context ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def num_positions(config: PretrainedConfig) -> int | None:
    """Positions at which an answer cannot depend on its neighbours; None where there is no limit.

    Args:
        config: the text model's.
    """
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope: dict[str, Any] = (
        getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    )
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    limits = [limit]
    for part in (rope, *by_layer_type):
        kind = part.get("rope_type", part.get("type")) or ""
        if kind == "longrope":
            # transformers 5 reads the first, 4 the second, and the config's own limit if need be.
            limits.append(part.get("original_max_position_embeddings"))
            limits.append(getattr(config, "original_max_position_embeddings", None))
    return min((each for each in limits if each is not None), default=None)
