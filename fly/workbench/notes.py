"""Notes of a comparison, as sentences.  On tasks and their metrics, and on drafting: what drafters
chose, what became of tokens that they copied, which lengths were pinned, where speculation did not
pay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fly.engine.plain_rounds import remark
from fly.workbench.methods import Method
from fly.workbench.metrics import named
from fly.workbench.results import Compared


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


def copying_notes(methods: Sequence[Method]) -> list[str]:
    """Notes on methods that count as native acceptance, and on those that loosen copied tokens."""
    notes = [method.told_stand_in for method in methods if method.stands_for]
    loosened = [m.name for m in methods if m.takes_setup and m.config.setup.loosens_copies]
    if loosened:
        notes.append(
            f"{', '.join(loosened)}: loosen_copied is true, so tokens that were copied from the "
            "context were loosened: answers may be copies of the prompt"
        )
    return notes


def same_notes(methods: Sequence[Method]) -> list[str]:
    """Notes on methods that are others by another name."""
    notes: list[str] = []
    seen: list[Method] = []
    for method in methods:
        first = next((other for other in seen if other.is_same_as(method)), None)
        if first is None:
            seen.append(method)
        elif method.is_candidate:
            notes.append(
                f"{method.name}: the same settings as {first.name}; both have one verdict, and how "
                "their speeds differ shows what the machine's drift makes of equal methods (A/A)"
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


def speed_notes(compared: Iterable[Compared]) -> list[str]:
    """Notes on methods that were slower than the plain rounds between theirs."""
    notes = []
    for one in compared:
        for each in one.decoded:
            found = remark(each.statistics, each.method.config.setup, each.method.batch_size)
            if found is not None:
                notes.append(f"{one.task}, {each.method.name}: {found}")
    return notes


def task_notes(compared: Sequence[Compared], num_blocks: Mapping[str, int]) -> list[str]:
    """What a reader has to know of single methods and tasks."""
    notes = []
    if not all(one.has_phases for one in compared):
        notes.append(
            "on an accelerator seconds by phase are host times, of which only the sum is wall "
            "time; what rounds cost is not told from them"
        )
    for one in compared:
        notes += [f"{one.task}: {note}" for note in _of_metric(one)]
        count = num_blocks[one.task]
        for each in one.decoded:
            if unfinished := each.statistics.unfinished_thinking:
                notes.append(
                    f"{one.task}, {each.method.name}: {unfinished} of {len(each.answers)} answers "
                    "ended inside their thinking, before what think_end_token names"
                )
            if len(each.blocks) < count:
                notes.append(
                    f"{one.task}, {each.method.name}: {count - len(each.blocks)} of {count} blocks "
                    "were interrupted and are not timed"
                )
    return notes


def _of_metric(compared: Compared) -> list[str]:
    """What is to be known of the metric that decides."""
    column, name = compared.column, named(compared.deciding)
    if column is None:
        return [f"no answer has {name}, so nothing is compared"]
    found = [column.told_missing] if column.told_missing else []
    if column.docs and column.score(compared.target.method.name).value is None:
        found.append(f"the aggregation of {name} gives no number, so nothing is compared")
    return found
