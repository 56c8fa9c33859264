"""Acceptance and seconds of a run, pooled from its answers.  A run has no compare.json that holds
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fly.formats.answers import Answer
from fly.formats.comparison import Acceptance


@dataclass(frozen=True)
class Measured:
    """One method on one task."""

    task: str
    method: str
    num_answers: int
    num_tokens: int
    acceptance: Acceptance | None
    seconds_by_phase: dict[str, float]


def pool(answers: Sequence[Answer]) -> list[Measured]:
    """By task and method, in the order met."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.task, answer.method), []).append(answer)
    return [
        Measured(
            task,
            method,
            len(some),
            sum(len(answer.token_ids) for answer in some),
            acceptance(some),
            _seconds(some),
        )
        for (task, method), some in groups.items()
    ]


def acceptance(answers: Sequence[Answer]) -> Acceptance | None:
    """What became of proposals; None where nothing was proposed."""
    rounds = [pair for answer in answers for pair in answer.round_lens if pair[0] > 0]
    if not rounds:
        return None
    longest = max(proposed for proposed, _ in rounds)
    reached: Counter[int] = Counter()
    kept_at: Counter[int] = Counter()
    for proposed, kept in rounds:
        reached.update(range(proposed))
        kept_at.update(range(kept))
    by_length = Counter(kept for _, kept in rounds)
    num_kept = sum(kept for _, kept in rounds)
    origins = Counter("".join(answer.origins for answer in answers))
    return Acceptance(
        mean_acceptance_length=(num_kept + len(rounds)) / len(rounds),
        acceptance_rate=num_kept / sum(proposed for proposed, _ in rounds),
        loose_share=origins["l"] / origins.total() if origins else None,
        rounds=len(rounds),
        by_position=[kept_at[position] / reached[position] for position in range(longest)],
        kept_per_round=[by_length[kept] for kept in range(longest + 1)],
    )


def _seconds(answers: Sequence[Answer]) -> dict[str, float]:
    total: dict[str, float] = {}
    for answer in answers:
        for key, value in answer.statistics.items():
            if key.startswith("seconds_"):
                phase = key.removeprefix("seconds_")
                total[phase] = total.get(phase, 0.0) + value
    return total
