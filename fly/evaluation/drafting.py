"""What drafters that choose while they decode tell of their choices, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def drafting_notes(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes of a comparison.

    Args:
        reports: `Drafter.report()` by method, of the requests that this process decoded, those to
            warm up included.
    """
    notes = []
    for name, report in reports.items():
        if "bandit" in report:
            policy = report["bandit"]["policy"]
            for situation, found in report["bandit"]["situations"].items():
                notes.append(
                    f"{name}, {situation.strip() or 'all tasks'}: {_bandit(policy, found)}"
                )
        if any(report.get("rounds_by_draft_length", {}).values()):
            notes.append(f"{name}: {_lengths(report)}")
    return notes


def _bandit(policy: str, found: Mapping[str, Any]) -> str:
    pulls = ", ".join(f"{arm} {told['pulls']:,}" for arm, told in found["arms"].items())
    return (
        f"{policy} pulled {pulls}; in {found['seconds']:.1f} s it had {found['regret_share']:.1%} "
        f"fewer tokens than {found['best']} would have had at its own rate"
    )


def _lengths(report: Mapping[str, Any]) -> str:
    rounds = {int(length): count for length, count in report["rounds_by_draft_length"].items()}
    total, plain = sum(rounds.values()), rounds.get(0, 0)
    told = f"{plain:,} of {total:,} rounds were plain"
    if total > plain:
        mean = sum(length * count for length, count in rounds.items()) / (total - plain)
        told += f", the longest proposal of the others had {mean:.1f} tokens on average"
    return f"{told}; behind plain rounds drafting was tried again {report['probes']:,} times"
