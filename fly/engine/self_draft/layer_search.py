"""Search for layers that a model can do without as its own draft.  Source: self-speculative
decoding, Draft & Verify (arXiv 2309.08168)."""

# Differs: there Bayesian optimisation chooses attention and MLP parts apart, by measured time.
# Here whole layers are left out one after the other, each time the one without which most choices
# stay what they were, and time is estimated.

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.engine.model.base import read_whole
from fly.engine.self_draft.model_view import layer_list, without_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

PATIENCE = 4  # layers that are left out without a better estimate before the search ends
LONG_S = 10.0  # a search that may take longer is reported even where nobody set up logging
LONGEST_PROPOSAL = 128  # a search for the length that suits a draft best ends here


@dataclass(frozen=True)
class LayerSet:
    """Layers that were left out, and what is known of the draft without them."""

    left_out: tuple[int, ...]
    agreement: float  # share of the calibration text's tokens after which both choose alike
    cost: float  # weights that a draft forward reads, as a share of the target's

    @property
    def speed(self) -> float:
        """Estimated speed against plain decoding, with proposals of the best length."""
        return best_speed(self.agreement, self.cost)

    def to_json(self) -> dict[str, object]:
        """As it is stored."""
        return {**asdict(self), "left_out": list(self.left_out)}


def best_speed(agreement: float, cost: float) -> float:
    """The largest E / (k c + 1) over proposal lengths k: E tokens emitted in a round of k draft
    forwards, each of which costs c target forwards.

    Every token is taken to be right with the same probability, whatever came before.
    """
    best, emitted, reached = 0.0, 1.0, 1.0
    for k in range(1, LONGEST_PROPOSAL + 1):
        reached *= agreement
        emitted += reached
        best = max(best, emitted / (k * cost + 1))
    return best


@torch.inference_mode()
def choices(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The model's most probable next token after every token of a text [1, T].  [T]."""
    return read_whole(model, ids)[0].argmax(-1)


def weights_read(model: PreTrainedModel) -> int:
    """Numbers that a forward reads: all weights but those that are only looked up by token."""
    looked_up = model.get_input_embeddings()
    head = model.get_output_embeddings()
    total = sum(weight.numel() for weight in model.parameters())
    is_tied = head is not None and getattr(head, "weight", None) is looked_up.weight
    return total if is_tied else total - sum(part.numel() for part in looked_up.parameters())


def search(model: PreTrainedModel, ids: Tensor, keep: float | None = None) -> LayerSet:
    """Leave out one layer after the other.

    Args:
        model: in evaluation mode.
        ids: [1, T] the calibration text.
        keep: the share of the layers that stays; None: what the estimate likes best, which leaves
            out one layer at least.

    Raises:
        ModelError: the layers cannot be found.
    """
    count, total = len(layer_list(model)), weights_read(model)
    fewest = 1 if keep is None else max(1, min(count - 1, round(keep * count)))
    begin = time.perf_counter()
    own = choices(model, ids)
    _announce(count, fewest, ids.shape[1], time.perf_counter() - begin)

    def judge(left_out: tuple[int, ...]) -> LayerSet:
        view = without_layers(model, left_out)
        try:
            agreement = float((choices(view, ids) == own).float().mean())
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001  layers may need one another, and fail in any way
            agreement = -math.inf
        return LayerSet(left_out, agreement, weights_read(view) / total)

    found: list[LayerSet] = []
    for step in greedy_path(count, count - fewest, judge):
        found.append(step)
        logger.info(
            "without layers %s: %.0f %% of choices stay, estimated %.2f times as fast as plain "
            "decoding",
            list(step.left_out),
            100 * step.agreement,
            step.speed,
        )
        if keep is None and not (has_patience(found) and can_improve(step, found, fewest / count)):
            break
    return found[-1] if keep is not None else max(found, key=lambda each: each.speed)


def _announce(count: int, fewest: int, num_tokens: int, forward_s: float) -> None:
    """What a search takes at most: all of `count` layers tried, then all but one, and so on, with a
    forward each."""
    num_forwards = sum(range(fewest + 1, count + 1))
    seconds = num_forwards * forward_s
    logger.log(
        logging.WARNING if seconds > LONG_S else logging.INFO,
        "searching which of %d layers the draft can do without: up to %d forwards over %d tokens, "
        "%.0f s at most as it looks now. The result is kept; left_out names layers without a "
        "search, and fewer calibration_tokens make it shorter",
        count,
        num_forwards,
        num_tokens,
        seconds,
    )


def greedy_path(
    count: int, num_left_out: int, judge: Callable[[tuple[int, ...]], LayerSet]
) -> Iterable[LayerSet]:
    """Sets that grow by the layer whose absence costs least; ends where none can go."""
    left_out: tuple[int, ...] = ()
    for _ in range(num_left_out):
        candidates = [
            judge(tuple(sorted((*left_out, number))))
            for number in range(count)
            if number not in left_out
        ]
        best = max(candidates, key=lambda each: each.agreement)
        if best.agreement < 0:
            return
        yield best
        left_out = best.left_out


def has_patience(found: Sequence[LayerSet]) -> bool:
    """Whether the best set so far was found lately."""
    best = max(found, key=lambda each: each.speed)
    return len(found) - found.index(best) <= PATIENCE


def can_improve(step: LayerSet, found: Iterable[LayerSet], least_cost: float) -> bool:
    """Whether a set that is still to come can be estimated better than those found, if none agrees
    more often than this one.
    """
    return best_speed(step.agreement, least_cost) > max(each.speed for each in found)
