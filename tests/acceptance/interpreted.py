"""The Triton kernel in Triton's interpreter, which is chosen when Triton is imported, and so a
program of its own.  `python -m tests.acceptance.interpreted FILE` writes what it found."""

import os
import sys
from typing import Any

import torch
from torch import Tensor

from fly.acceptance import RejectionSampling, Scores, fused, leading_true, rules
from fly.acceptance.rejection import SoftLines
from fly.acceptance.tables import LogitTable
from tests.acceptance.lines import cases, cuts
from tests.acceptance.rescoring import config_of, temperature_of
from tests.acceptance.test_tables import CASES


def kernel_values() -> dict[Any, Any]:
    """Values and choice of every case, cut in every way."""
    from fly.acceptance.fused_kernel import summarise

    return {
        (name, block, splits): summarise(logits, block=block, splits=splits)
        for name, logits in cases().items()
        for block, splits in cuts(logits)
    }


def decisions() -> dict[str, bool]:
    """Whether rules decide with the kernel as with its twin, and sampled rows draw alike."""
    from fly.acceptance import fused_kernel

    found: dict[str, list[Any]] = {}
    for kernel in (None, fused_kernel):
        fused.kernel_for = lambda _, kernel=kernel: kernel  # type: ignore[misc]
        for is_greedy in (None, torch.tensor([False, True, False])):
            for name, answer in answers(is_greedy).items():
                found.setdefault(name, []).append(answer)
    return {name: each[: len(each) // 2] == each[len(each) // 2 :] for name, each in found.items()}


def answers(is_greedy: Tensor | None) -> dict[str, Any]:
    """What all rules decide about proposals in the same tables, by their names."""
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(3, 4, 9, generator=generator) * 1.5 + 1
    final = raw / 0.8
    tables = [LogitTable(raw, each, is_flat=False) for each in (None, final)]
    ids = torch.randint(9, (3, 3), generator=generator)
    draws = torch.rand(3, 4, 2, generator=generator, dtype=torch.float64)
    q = (raw[:, :3] + torch.randn(3, 3, 9, generator=generator) * 0.7).softmax(-1)
    is_sampled = torch.ones(3, dtype=torch.bool) if is_greedy is None else ~is_greedy
    law = RejectionSampling(SoftLines(final, is_greedy), q, draws, is_sampled)
    found = {}
    for name, settings in CASES:
        is_drawn = rules.get(name).temperatures == "sampled"
        rule = config_of(name, temperature=temperature_of(name), **settings).setup.rule
        for place, table in enumerate(tables):
            scores = Scores(
                table,
                ids,
                torch.tensor([3, 2, 3]),
                torch.arange(9) == 2,
                law=law if is_drawn or place else None,
                draft_probs=q,
            )
            decision = rule.accept(scores)
            kept = leading_true(decision.accepted)
            own = scores.choice_at(kept, decision.weight)
            parts = (decision.reason, own, scores.is_finite, scores.choice)
            found[f"{name} {settings} {place}"] = [part.tolist() for part in parts]
    return found


def main() -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"
    torch.set_num_threads(1)
    torch.save({"values": kernel_values(), "decisions": decisions()}, sys.argv[1])


if __name__ == "__main__":
    main()
