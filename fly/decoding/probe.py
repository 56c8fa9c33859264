"""How a model can be served, found out by trying (DESIGN: three tiers).

A few random tokens are read in ragged pieces, with wrong ones written and taken back in between;
the logits must be those of one forward without a cache.  What differs is served by the next tier.
That is evidence and no proof: windows and chunks longer than the few tokens are not reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fly.decoding.model import SlotModel, check_attention, execution_device
from fly.decoding.protocol import CausalModel
from fly.decoding.rowwise import RowModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 16  # of every row
NUM_ROWS = 3
# Root mean square of the difference over the logits' standard deviation.  In half precision
# forwards of different shapes differ by 3 to 5 % at most; a wrong cache differs by the order of 1.
EXACT, ROUGH = 1e-3, 0.1


class Tier(str, Enum):
    """How a model is served, best first."""

    BATCHED = "batched"  # all rows in one forward, on a slot cache
    ROWWISE = "row by row"  # batch 1, a cache a row
    STEPWISE = "row by row, one token at a time"  # extending by several tokens is wrong
    PLAIN = "plain"  # single tokens by its own cache, as `generate` does, whatever that is worth
    NONE = "not at all"  # the cache cannot be used without `generate`


@dataclass(frozen=True)
class Finding:
    """What the probe found."""

    tier: Tier
    reasons: dict[Tier, str]  # why each better tier was not taken

    @property
    def why(self) -> str:
        """The reasons in words."""
        return "; ".join(f"{tier.value}: {reason}" for tier, reason in self.reasons.items())


def serve(
    tier: Tier,
    model: PreTrainedModel,
    common_vocab: int | None = None,
    *,
    share_prefixes: bool = True,
) -> CausalModel:
    """A model behind the engine's interface.

    Raises:
        ModelError: this tier cannot serve it.
    """
    if tier is Tier.BATCHED:
        return SlotModel(model, common_vocab, share_prefixes=share_prefixes)
    max_extension = None if tier is Tier.ROWWISE else 1
    is_plain = tier is Tier.PLAIN
    return RowModel(model, common_vocab, max_extension=max_extension, is_plain=is_plain)


@torch.inference_mode()
def probe(model: PreTrainedModel) -> Finding:
    """Find the best tier that serves a model in evaluation mode; a few forwards of some 50 tokens.

    The model is not changed, nor is the state of any random generator.

    Raises:
        ModelError: its attention implementation cannot be served.
    """
    check_attention(model.config.get_text_config())
    reasons: dict[Tier, str] = {}
    last = Tier.NONE
    for tier in (Tier.BATCHED, Tier.ROWWISE, Tier.STEPWISE):
        try:
            error = deviation(serve(tier, model), model)
        except torch.OutOfMemoryError:
            raise  # says nothing about the tier
        except Exception as failure:  # noqa: BLE001  models raise whatever they like
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            reasons[tier] = f"{type(failure).__name__}: {reason}"
            last = Tier.NONE
            continue
        if error <= tolerance(model):
            return Finding(tier, reasons)
        reasons[tier] = f"logits are off by {error:.2g} of their standard deviation"
        last = Tier.PLAIN
    return Finding(last, reasons)


def tolerance(model: PreTrainedModel) -> float:
    """What an honest cache may differ by; more where matrix products are rounded."""
    is_rounded = (
        torch.finfo(model.dtype).bits < 32
        or torch.get_float32_matmul_precision() != "highest"
        or torch.is_autocast_enabled(execution_device(model).type)
    )
    return ROUGH if is_rounded else EXACT


def sample(model: PreTrainedModel, vocab_size: int, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random texts [B, T], as many other tokens, and the texts' logits [B, T, V] from one forward.

    Ids that nothing was trained on may have no numbers at all; they are avoided where possible.
    """
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, vocab_size, (2 * NUM_ROWS, total), generator=generator)
        ids = ids.to(execution_device(model))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        if not logits.isnan().any():
            break
    return ids[:NUM_ROWS], ids[NUM_ROWS:], logits[:NUM_ROWS]


def deviation(served: CausalModel, model: PreTrainedModel) -> float:
    """How far ragged extensions are from one forward without a cache, as a share of the logits'
    standard deviation; logits that are not finite there tell nothing.
    """
    total = min(TOKENS, served.num_positions or TOKENS)
    piece = max(1, total // 4)
    device = served.device
    texts, others, reference = sample(model, served.vocab_size, total)
    rows = torch.arange(NUM_ROWS, device=device)[:, None]
    # A row that has read nothing, one in the middle, one as long as two pieces still fit behind it.
    starts = (rows[:, 0] * (total - 2 * piece)) // (NUM_ROWS - 1)
    served.prefill([text[:n] for text, n in zip(texts.tolist(), starts.tolist(), strict=True)], 0)
    differences, compared = [], []

    def extend(ids: Tensor, begin: Tensor, num_right: int) -> None:
        """Run a piece of every row; compare the logits of its first tokens."""
        columns = begin[:, None] + torch.arange(piece, device=device)  # [B, n]
        got = served.extend(ids[rows, columns], begin, int(columns.max()) + 1)
        want = reference[rows, columns[:, :num_right]].float()
        differences.append(got[:, :num_right].float() - want)
        compared.append(want)

    mixed = texts.clone()
    columns = starts[:, None] + torch.arange(1, piece, device=device)
    mixed[rows, columns] = others[rows, columns]
    extend(mixed, starts, 1)  # the first token is right, the others are refused
    extend(texts, starts + 1, piece)
    extend(texts, starts + piece, piece)
    difference, want = torch.cat(differences, 1), torch.cat(compared, 1)
    known = want.isfinite()
    if not known.any():
        return 0.0
    return float(difference[known].square().mean().sqrt() / want[known].std())
