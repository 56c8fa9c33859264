"""The Triton kernel that reduces every line of logits in one pass.  The tests run it in Triton's
interpreter and compile it for sm_80 and sm_90; not run on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # logits of one step
# Without fused multiplication and addition a difference is rounded as torch rounds it.
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
NUM_VALUES = 5  # of a line: fused.Summary
# Programs that should be there at least: a GPU has 100 to 150 processors.
ENOUGH_PROGRAMS = 256
MOST_SPLITS = 32


@triton.jit
def _three_largest(first, second, third, first_id, lanes):
    """Of lanes that have three each, in order, and the id of the lowest that has the largest."""
    top1 = tl.max(first, 0)
    best_id = tl.min(tl.where(first == top1, first_id, 2147483647), 0)
    # Twice the lane with the highest head moves up.
    took = (first == top1) & (first_id == best_id)
    first, second = tl.where(took, second, first), tl.where(took, third, second)
    top2 = tl.max(first, 0)
    taken = tl.min(tl.where(first == top2, lanes, 2147483647), 0)
    top3 = tl.max(tl.where(lanes == taken, second, first), 0)
    return top1, top2, top3, best_id


@triton.jit
def _read(
    x_ptr,
    sums_ptr,
    ids_ptr,
    stride_row,
    stride_line,
    stride_id,
    num_lines,
    vocab_size,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One split of one line: every SPLITS-th block of it.  Its sums: the largest three, the sum of
    e = exp(x - best), and that of e (x - best).  Its ids: of the largest, and of the first NaN.
    """
    line, split = tl.program_id(0), tl.program_id(1)
    lanes = tl.arange(0, BLOCK)
    low = float("-inf")
    row = (line // num_lines).to(tl.int64) * stride_row
    base = x_ptr + row + (line % num_lines).to(tl.int64) * stride_line
    best = tl.max(tl.full([BLOCK], low, tl.float32), 0)  # a scalar of the loop's type
    total = tl.zeros([BLOCK], tl.float32)
    moment = tl.zeros([BLOCK], tl.float32)
    first = tl.full([BLOCK], low, tl.float32)  # a lane's three largest
    second, third = first, first
    first_id = split * BLOCK + lanes  # the lane's first: right where all are -inf
    nan_id = tl.full([BLOCK], 2147483647, tl.int32)
    for start in range(split * BLOCK, vocab_size, SPLITS * BLOCK):
        ids = start + lanes
        x = tl.load(base + ids.to(tl.int64) * stride_id, mask=ids < vocab_size, other=low)
        x = x.to(tl.float32)
        is_nan = x != x
        nan_id = tl.minimum(nan_id, tl.where(is_nan, ids, 2147483647))
        x = tl.where(is_nan, low, x)
        above = tl.maximum(best, tl.max(x, 0))
        # Nothing is subtracted from -inf: there the sums are 0.
        base_logit = tl.where(above == low, 0.0, above)
        shift = tl.where(best == low, 0.0, best - base_logit)
        scale = tl.where(best == low, 0.0, tl.exp(shift))
        distance = x - base_logit
        each = tl.exp(distance)
        # What has no weight is left out, however far away: 0 times infinity is no number.
        moment = tl.where(scale == 0.0, 0.0, scale * (moment + total * shift))
        moment += tl.where(each == 0.0, 0.0, each * distance)
        total = total * scale + each
        best = above
        first_id = tl.where(x > first, ids, first_id)  # of equals the first stays
        pushed = tl.minimum(first, x)
        first = tl.maximum(first, x)
        third = tl.maximum(third, tl.minimum(second, pushed))
        second = tl.maximum(second, pushed)
    top1, top2, top3, best_id = _three_largest(first, second, third, first_id, lanes)
    sums = sums_ptr + (line * SPLITS + split) * 5
    tl.store(sums, top1)
    tl.store(sums + 1, top2)
    tl.store(sums + 2, top3)
    tl.store(sums + 3, tl.sum(total, 0))
    tl.store(sums + 4, tl.sum(moment, 0))
    tl.store(ids_ptr + (line * SPLITS + split) * 2, best_id)
    tl.store(ids_ptr + (line * SPLITS + split) * 2 + 1, tl.min(nan_id, 0))


@triton.jit
def _combine(sums_ptr, ids_ptr, values_ptr, choice_ptr, SPLITS: tl.constexpr):
    """A line's splits into what fused.Summary holds."""
    line = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    sums = sums_ptr + (line * SPLITS + splits) * 5
    first, second, third = tl.load(sums), tl.load(sums + 1), tl.load(sums + 2)
    total, moment = tl.load(sums + 3), tl.load(sums + 4)
    first_id = tl.load(ids_ptr + (line * SPLITS + splits) * 2)
    nan_id = tl.min(tl.load(ids_ptr + (line * SPLITS + splits) * 2 + 1), 0)
    low, nan = float("-inf"), float("nan")
    top1, top2, top3, best_id = _three_largest(first, second, third, first_id, splits)
    base_logit = tl.where(top1 == low, 0.0, top1)
    shift = tl.where(first == low, 0.0, first - base_logit)
    scale = tl.where(first == low, 0.0, tl.exp(shift))
    whole = tl.sum(total * scale, 0)
    log_sum = tl.log(whole)
    moment = tl.where(scale == 0.0, 0.0, scale * (moment + total * shift))
    entropy = log_sum - tl.sum(moment, 0) / whole
    has_nan = nan_id < 2147483647
    # As log_softmax: an infinite logit, or none that is finite, leaves no numbers.
    is_bad = has_nan | (top1 == low) | (top1 == -low)
    values = values_ptr + line * 5
    tl.store(values, tl.where(has_nan, nan, top1))
    tl.store(values + 1, tl.where(has_nan, nan, top2))
    tl.store(values + 2, tl.where(has_nan, nan, top3))
    tl.store(values + 3, tl.where(is_bad, nan, log_sum))
    tl.store(values + 4, tl.where(is_bad, nan, entropy))
    tl.store(choice_ptr + line, tl.where(has_nan, nan_id, best_id).to(tl.int64))


def summarise(
    logits: Tensor, *, block: int = BLOCK, splits: int | None = None
) -> tuple[Tensor, Tensor]:
    """What fused.Summary holds, of logits [R, T, V] in any strides.  [R, T, 5] float32, and the
    likeliest token [R, T] int64.

    Args:
        logits: float32, float16 or bfloat16.
        block: a power of 2.
        splits: parts of a line, a power of 2, read beside each other; None: as many as keep a GPU
            busy.
    """
    num_rows, num_lines, vocab_size = logits.shape
    count = num_rows * num_lines
    values = torch.empty(num_rows, num_lines, NUM_VALUES, device=logits.device)
    choice = torch.empty(num_rows, num_lines, dtype=torch.int64, device=logits.device)
    if count == 0:
        return values, choice
    block = min(block, triton.next_power_of_2(vocab_size))
    if splits is None:
        most = min(MOST_SPLITS, triton.next_power_of_2(triton.cdiv(vocab_size, block)))
        splits = min(most, triton.next_power_of_2(triton.cdiv(ENOUGH_PROGRAMS, count)))
    sums = torch.empty(count, splits, NUM_VALUES, device=logits.device)
    ids = torch.empty(count, splits, 2, dtype=torch.int32, device=logits.device)
    strides = logits.stride()
    _read[(count, splits)](
        logits, sums, ids, *strides, num_lines, vocab_size, SPLITS=splits, BLOCK=block, **OPTIONS
    )
    _combine[(count,)](sums, ids, values, choice, SPLITS=splits, **OPTIONS)
    return values, choice
