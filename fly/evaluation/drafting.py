"""What a reader has to know of drafting, as sentences: what drafters chose while they decoded, what
became of tokens that they copied, which lengths were pinned, and where speculation did not pay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fly.decoding import Statistics
from fly.decoding.plain_rounds import remark
from fly.evaluation.methods import Method


def drafting_notes(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes of a comparison.

    Args:
        reports: `SpeculativeDecoder.report()` by method, of the requests that this process
            decoded, those to warm up included.
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


def copying_notes(methods: Sequence[Method]) -> list[str]:
    """Notes on methods that count as native acceptance, and on those that loosen copied tokens."""
    notes = [method.told_stand_in for method in methods if method.stands_for]
    loosened = [m.name for m in methods if m.is_engine and m.config.loosens_copies]
    if loosened:
        notes.append(
            f"{', '.join(loosened)}: loosen_copied is true, so tokens that were copied from the "
            "context were loosened: answers may be copies of the prompt"
        )
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


def length_notes(methods: Sequence[Method]) -> list[str]:
    """A note on methods whose lengths are fixed because their names give one."""
    pinned = [method.name for method in methods if method.pins_length]
    if not pinned:
        return []
    return [
        f"{', '.join(pinned)}: draft_length is fixed, since spd_k is named; left open it is "
        "adaptive (name draft_length=adaptive to have both)"
    ]


def speed_notes(pooled: Iterable[tuple[str, Method, Statistics]]) -> list[str]:
    """Notes on methods that were slower than the plain rounds between theirs.

    Args:
        pooled: task, method and the counters of its answers.
    """
    notes = []
    for task, method, counts in pooled:
        found = remark(counts, method.config, method.batch_size)
        if found is not None:
            notes.append(f"{task}, {method.name}: {found}")
    return notes
