"""The Triton kernel, in Triton's interpreter, and its torch twin: one table for both."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fly.acceptance import fused
from fly.acceptance.fused import Summary
from tests.acceptance.lines import cases, cuts, special

ROOT = Path(__file__).parents[2]
CASES = cases()
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


def run_python(*arguments, **variables):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What the kernel found in the interpreter, which only a process of its own can choose."""
    file = tmp_path_factory.mktemp("interpreted") / "found.pt"
    run_python("-m", "tests.acceptance.interpreted", file, TRITON_INTERPRET="1")
    return torch.load(file)


def assert_summary(logits, values, choice):
    """As torch has it: argmax and topk to the last bit, the rest to float32's precision."""
    assert torch.equal(choice, logits.argmax(-1))
    vocab = logits.shape[-1]
    summary = Summary(values)
    top = logits.float().topk(min(3, vocab), dim=-1).values
    has_nan = logits.isnan().any(-1, keepdim=True)
    top = top.masked_fill(has_nan, torch.nan)
    found = summary.top[..., :vocab]
    assert torch.equal(found.nan_to_num(7.5, 8.5, 9.5), top.nan_to_num(7.5, 8.5, 9.5))
    exact = logits.double().log_softmax(-1)
    likeliest = exact.gather(-1, choice[..., None])[..., 0]
    assert_close(summary.log_sum, -likeliest)
    assert_close(summary.p_best, likeliest.exp())
    ids = torch.arange(exact[..., 0].numel()).view(exact.shape[:-1]) * 7919 % vocab
    picked = logits.gather(-1, ids[..., None])[..., 0]
    assert_close(summary.p_of(picked), exact.gather(-1, ids[..., None])[..., 0].exp())
    terms = torch.where(exact == -torch.inf, 0.0, exact.exp() * exact)
    assert_close(summary.entropy("full", vocab), -terms.sum(-1))
    if vocab > 1:
        assert_close(summary.entropy("normalised", vocab), -terms.sum(-1) / math.log(vocab))
    largest = exact.topk(min(3, vocab), dim=-1).values
    of_top = torch.where(largest == -torch.inf, 0.0, largest.exp() * largest)
    assert_close(summary.entropy("top3", vocab), -of_top.sum(-1))


def assert_close(found, want):
    assert torch.allclose(found.double(), want, rtol=2e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_twin(name):
    logits = CASES[name]
    values = fused.summary_of(logits, with_entropy=True)
    assert_summary(logits, values, fused.likeliest(logits))
    without = fused.summary_of(logits)
    assert torch.equal(without[..., :4].nan_to_num(7.5), values[..., :4].nan_to_num(7.5))


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernel(name, interpreted):
    for block, splits in cuts(CASES[name]):
        assert_summary(CASES[name], *interpreted["values"][name, block, splits])


@needs_triton
def test_rules_decide_alike_with_the_kernel(interpreted):
    found = interpreted["decisions"]
    assert len(found) > 12
    assert all(found.values()), [name for name, is_alike in found.items() if not is_alike]


@needs_triton
def test_kernel_compiles_for_gpus(tmp_path):
    lines = run_python("-m", "tests.acceptance.compiled", TRITON_CACHE_DIR=str(tmp_path))
    assert lines.splitlines() == [
        "_read fp32 sm_80 False",
        "_read bf16 sm_90 False",
        "_combine fp32 sm_80 False",
        "_combine fp32 sm_90 False",
    ]


def test_twin_takes_pieces_of_a_line_where_these_pay():
    """Long lines are looked at in blocks, also those whose last block is short."""
    whole = torch.randn(3, fused.BLOCK * fused.LEAST_BLOCKS)
    for logits in (whole, torch.cat([whole, whole[:, :5] + 9], 1), whole[:, :-1]):
        assert torch.equal(fused.likeliest(logits), logits.argmax(-1))


def test_without_an_accelerator_there_is_no_kernel():
    assert fused.kernel_for(torch.zeros(1, 1, 4)) is None


def test_a_triton_that_cannot_be_used_is_no_error(monkeypatch):
    """Another version than torch's, or one for another platform: the twin serves."""
    monkeypatch.setitem(sys.modules, "fly.acceptance.fused_kernel", None)
    assert fused.find_kernel() is None


def test_cases_are_what_their_names_say():
    lines = special(torch.randn(1, 2, 4600))
    assert not lines["every second logit"].is_contiguous()
    assert not lines["rows and lines swapped"].is_contiguous()
    assert lines["all -inf"][0, 1].eq(-torch.inf).all()
