"""What a round's scores were at every position; records keep only what took effect."""

from collections import defaultdict
from dataclasses import dataclass

import pytest

from fly.engine import deciding as module


@dataclass(frozen=True)
class Seen:
    """One round of one row."""

    target_ids: list[int]  # [K+1] the target's choices; the last is the bonus
    entropy: list[float]  # [K] top-3 nats


def watch(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Seen]]:
    """From now on, the recorded rounds of each request, by its index."""
    seen: dict[int, list[Seen]] = defaultdict(list)
    record = module.record_round

    def record_and_see(rows, scores, outcomes, rule):
        record(rows, scores, outcomes, rule)
        tables = scores.choice.tolist(), scores.entropy("top3").tolist()
        for row, outcome, choice, entropy in zip(rows, outcomes, *tables, strict=True):
            n = outcome.num_proposed
            seen[row.index].append(Seen(choice[: n + 1], entropy[:n]))

    monkeypatch.setattr(module, "record_round", record_and_see)
    return seen
