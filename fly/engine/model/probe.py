"""The choice of a model's cache kind, by trial.  A few random tokens are read in ragged pieces,
with wrong ones written and taken back in between; the logits must be those of one forward without a
cache.  A model that differs is served by the next kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fly.engine.model.base import CausalModel, execution_device, read_whole
from fly.engine.model.capture import CapturedModel, why_not
from fly.engine.model.masks import check_attention, num_positions
from fly.engine.model.per_row import RowModel, UncachedModel
from fly.engine.model.slots import SlotModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 16  # of every row
NUM_ROWS = 3
# Root mean square of the difference over the logits' standard deviation.  In half precision
# forwards of different shapes differ by 3 to 5 % at most; a wrong cache differs by the order of 1.
EXACT, ROUGH = 1e-3, 0.1
USELESS = 0.5  # the same of a draft that guesses
UNSTEADY = 2  # times as far as it differs from itself without a cache, a draft may be off with one


@dataclass(frozen=True)
class CacheKind:
    """A way to keep what a model has read."""

    name: str  # in reports
    load: Callable[..., CausalModel]  # takes what LoadedModel takes
    checks: tuple[Callable[[CausalModel, PreTrainedModel], float], ...]  # logits' deviations
    can_verify: bool = True  # False: reading several tokens at once is wrong, or saves nothing
    can_draft: bool = True


@dataclass(frozen=True)
class Finding:
    """Result of the probe."""

    kind: CacheKind | None  # None: nobody but its own `generate` can decode the model
    reasons: dict[str, str]  # why each better kind was not taken, by name

    @property
    def why(self) -> str:
        """The reasons in words."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())


@torch.inference_mode()
def probe(model: PreTrainedModel, *, is_draft: bool = False) -> Finding:
    """Find the first of CACHE_KINDS that serves a model in evaluation mode; it takes a few forwards
    of some 50 tokens.

    Where nothing but single tokens or whole texts can be read, the logits must be those that
    `generate` chooses from.  That is evidence and no proof: windows and chunks longer than the few
    tokens are not reached.  A draft's mistakes cost speed and no text, so it need not be steadier
    with a cache than without.

    The model is not changed, nor is the state of any random generator.

    Args:
        model: a loaded model.
        is_draft: its mistakes cost speed and no text, so its logits may depend on the shape of the
            forward, as they do where what goes into a layer is quantised (`draft_tolerance`).

    Raises:
        ModelError: its attention implementation cannot be served.
    """
    check_attention(model.config.get_text_config())
    reasons: dict[str, str] = {}
    is_captured = why_not(model, execution_device(model)) is None
    for kind in [CAPTURED, *CACHE_KINDS] if is_captured else CACHE_KINDS:
        try:
            served = kind.load(model)
            error = max(check(served, model) for check in kind.checks)
        except torch.OutOfMemoryError:
            raise  # shows nothing about the kind
        except Exception as failure:  # noqa: BLE001  models raise whatever they like
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            reasons[kind.name] = f"{type(failure).__name__}: {reason}"
            continue
        if error <= tolerance(model) or (is_draft and error <= draft_tolerance(served, model)):
            return Finding(kind, reasons)
        reasons[kind.name] = f"logits are off by {error:.2g} of their standard deviation"
    return Finding(None, reasons)


def tolerance(model: PreTrainedModel) -> float:
    """What an honest cache may differ by; more where matrix products are rounded."""
    is_rounded = (
        torch.finfo(model.dtype).bits < 32
        or torch.get_float32_matmul_precision() != "highest"
        or torch.is_autocast_enabled(execution_device(model).type)
    )
    return ROUGH if is_rounded else EXACT


def draft_tolerance(served: CausalModel, model: PreTrainedModel) -> float:
    """What a draft's cache may differ by: as a target's, or somewhat more than forwards without a
    cache differ by among themselves, as far as its tokens are no mere guesses.
    """
    total = min(TOKENS, served.num_positions or TOKENS)
    texts, _, reference = sample(model, served.vocab_size, total)
    unsteady = 0.0
    for length in (max(1, total // 2), max(1, total - 1)):
        want = reference[:, :length].float()
        got = read_whole(model, texts[:, :length]).float()
        unsteady = max(unsteady, share(got - want, want))
    return min(max(tolerance(model), UNSTEADY * unsteady), USELESS)


def sample(model: PreTrainedModel, vocab_size: int, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random texts [B, T], as many other tokens, and the texts' logits [B, T, V] from one forward.

    Ids that nothing was trained on may have no numbers at all; they are avoided where possible.
    """
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, vocab_size, (2 * NUM_ROWS, total), generator=generator)
        ids = ids.to(execution_device(model))
        logits = read_whole(model, ids)
        if not logits.isnan().any():
            break
    return ids[:NUM_ROWS], ids[NUM_ROWS:], logits[:NUM_ROWS]


@torch.inference_mode()
def drafts_nan(model: PreTrainedModel) -> bool:
    """Whether some of a model's logits on a short text are NaN: a target that did so would raise,
    a draft that does only never has a token accepted.
    """
    vocab_size = int(model.config.get_text_config().vocab_size)
    total = min(TOKENS, num_positions(model.config.get_text_config()) or TOKENS)
    return bool(sample(model, vocab_size, total)[2].isnan().any())


def deviation(served: CausalModel, model: PreTrainedModel) -> float:
    """How far ragged extensions are from one forward without a cache; see `share`."""
    total = min(TOKENS, served.num_positions or TOKENS)
    piece = max(1, total // 4)
    device = served.device
    texts, others, reference = sample(model, served.vocab_size, total)
    rows = torch.arange(NUM_ROWS, device=device)[:, None]
    # A row that has read nothing, one in the middle, one as long as two pieces still fit after it.
    starts = (rows[:, 0] * (total - 2 * piece)) // (NUM_ROWS - 1)
    served.prefill([text[:n] for text, n in zip(texts.tolist(), starts.tolist(), strict=True)], 0)
    differences, compared = [], []

    def extend(ids: Tensor, begin: Tensor, num_right: int) -> None:
        """Run a piece of every row; compare the logits of its first tokens."""
        columns = begin[:, None] + torch.arange(piece, device=device)  # [B, n]
        got = served.extend(ids[rows, columns], begin.tolist())
        want = reference[rows, columns[:, :num_right]].float()
        differences.append(got[:, :num_right].float() - want)
        compared.append(want)

    mixed = texts.clone()
    columns = starts[:, None] + torch.arange(1, piece, device=device)
    mixed[rows, columns] = others[rows, columns]
    extend(mixed, starts, 1)  # the first token is right, the others are refused
    extend(texts, starts + 1, piece)
    extend(texts, starts + piece, piece)
    return share(torch.cat(differences, 1), torch.cat(compared, 1))


def deviation_from_generate(served: CausalModel, model: PreTrainedModel) -> float:
    """How far single tokens are from the logits of the model's own `generate`; see `share`."""
    total = min(TOKENS, served.num_positions or TOKENS)
    length = max(1, total // 2)
    prompt = sample(model, served.vocab_size, total)[0][:1, :length]
    generating: Any = model  # its type hides that this is a method
    output = generating.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max(1, total - length),
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    want = torch.stack(output.logits, 1).float()[..., : served.vocab_size]  # [1, n, V]
    served.prefill([prompt[0, :-1].tolist()], 0)
    places = range(length - 1, length - 1 + want.shape[1])
    single = [served.extend(output.sequences[:, n : n + 1], [n]) for n in places]
    return share(torch.cat(single, 1).float() - want, want)


def share(differences: Tensor, logits: Tensor) -> float:
    """Root mean square of the differences by the logits' standard deviation; logits that are not
    finite are left out.  Of equal logits, which have none: 0 where nothing differs, or infinity.
    """
    known = logits.isfinite()
    if not known.any():
        return 0.0
    error, scale = float(differences[known].square().mean().sqrt()), float(logits[known].std())
    if error == 0.0:
        return 0.0
    return error / scale if scale > 0 and math.isfinite(error) else math.inf


# All rows in one forward.
BATCHED = CacheKind("batched", SlotModel, (deviation,))
# The same with extensions replayed from CUDA graphs; only tried where those can be made.
CAPTURED = CacheKind("batched, in CUDA graphs", CapturedModel, (deviation,))
# Batch 1, with a cache a row.
ROWWISE = CacheKind("row by row", RowModel, (deviation,))
# Extending by several tokens is wrong.
STEPWISE = CacheKind(
    "row by row, one token at a time",
    partial(RowModel, max_extension=1),
    (deviation,),
    can_verify=False,
)
# Single tokens by the model's own cache, whose logits are not those of one forward.
PLAIN = CacheKind(
    "plain",
    partial(RowModel, max_extension=1, is_plain=True),
    (deviation_from_generate,),
    can_verify=False,
    can_draft=False,
)
# The model has no cache that can be used; texts are read whole each time.
UNCACHED = CacheKind("without a cache", UncachedModel, (deviation, deviation_from_generate))
# In the order in which they are tried, best first.  A new kind is registered here.
CACHE_KINDS = [BATCHED, ROWWISE, STEPWISE, PLAIN, UNCACHED]
