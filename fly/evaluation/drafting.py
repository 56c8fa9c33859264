"""What drafters that choose while they decode tell of their choices, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def drafting_notes(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes of a comparison.

    Args:
        reports: `Drafter.report()` by method, of the requests that this process decoded.
    """
    notes = []
    for name, report in reports.items():
        if "bandit" in report:
            policy = report["bandit"]["policy"]
            for situation, found in report["bandit"]["situations"].items():
                notes.append(
                    f"{name}, {situation.strip() or 'all tasks'}: {_bandit(policy, found)}"
                )
        if "rounds_by_draft_length" in report:
            rounds = report["rounds_by_draft_length"]
            notes.append(
                f"{name}: {rounds.get('0', 0):,} of {sum(rounds.values()):,} rounds were plain, "
                f"the others drafted {_mean_length(rounds):.1f} tokens on average; behind plain "
                f"rounds drafting was tried again {report['probes']:,} times"
            )
    return notes


def _bandit(policy: str, found: Mapping[str, Any]) -> str:
    pulls = ", ".join(f"{arm} {told['pulls']:,}" for arm, told in found["arms"].items())
    return (
        f"{policy} pulled {pulls}; in {found['seconds']:.1f} s it had {found['regret_share']:.1%} "
        f"fewer tokens than {found['best']} would have had at its own rate"
    )


def _mean_length(rounds: Mapping[str, int]) -> float:
    drafted = {int(length): count for length, count in rounds.items() if length != "0"}
    return sum(length * count for length, count in drafted.items()) / max(1, sum(drafted.values()))
