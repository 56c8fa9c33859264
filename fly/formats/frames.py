"""Results as tables of pandas: flat columns, an interval as its estimate, `_low` and `_high`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fly.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd

    from fly.formats.comparison import Acceptance, Comparison, MethodResult, TaskResult
    from fly.formats.sweep import Point, Sweep
    from fly.stats.records import Interval, Paired


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """A row for every task and method.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    rows = [_method(task, method) for task in comparison.tasks for method in task.methods]
    return _frame(rows)


def sweep_frame(sweep: Sweep) -> pd.DataFrame:
    """A row for every point of the grid, its settings as columns of their own.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    return _frame([_point(point, sweep) for point in sweep.points])


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(
            "a table needs pandas, which is not installed",
            fix="pip install 'fly-decoding[stats]', in a clone: pip install -e '.[stats]'",
        ) from error
    frame: pd.DataFrame = pd.DataFrame(rows)  # Any where pandas has no stubs
    return frame


def _method(task: TaskResult, method: MethodResult) -> dict[str, Any]:
    verdict, speed, texts = method.verdict, method.speed, method.texts
    return {
        "task": task.task,
        "method": method.name,
        "role": method.role,
        "batch_size": method.batch_size,
        "is_lossless": method.is_lossless,
        "num_items": task.num_items,
        "metric": method.score.metric,
        "filter": method.score.filter,
        "score": method.score.value,
        "stderr": method.score.stderr,
        **_paired(method.paired),
        "verdict": verdict.verdict if verdict else None,
        "p_safe": verdict.p_safe if verdict else None,
        "p_not_safe": verdict.p_not_safe if verdict else None,
        "items_needed": verdict.items_needed if verdict else None,
        "tokens_per_s": speed.tokens_per_s,
        "seconds": speed.seconds,
        "num_blocks": speed.num_blocks,
        **dict(_spread("speedup", speed.vs_target)),
        **dict(_spread("speedup_vs_baseline", speed.vs_baseline)),
        **dict(_spread("speedup_vs_native", speed.vs_native)),
        **_acceptance(method.acceptance),
        "num_answers": texts.num_answers,
        "num_equal": texts.num_equal,
        "num_ties": texts.num_ties,
        "mean_tokens": texts.mean_tokens,
        "peak_memory_bytes": method.peak_memory_bytes,
    }


def _point(point: Point, sweep: Sweep) -> dict[str, Any]:
    return {
        "point": point.name,
        **point.settings,
        "is_lossless": point.is_lossless,
        "num_items": point.num_items,
        "score": point.score,
        **_paired(point.paired),
        "recovery_lower": point.recovery_lower,
        "points_lower": point.points_lower,
        **dict(_spread("speedup", point.speedup)),
        "tau": point.mean_acceptance_length,
        "acceptance_rate": point.acceptance_rate,
        "loose_share": point.loose_share,
        "rounds": point.rounds,
        "stopped": point.stopped,
        "on_frontier": point.on_frontier,
        "recommended": point.name == sweep.recommended,
    }


def _paired(paired: Paired | None) -> dict[str, Any]:
    return {
        **dict(_spread("recovery", paired.recovery if paired else None)),
        **dict(_spread("difference", paired.difference if paired else None)),
        "gained": paired.gained if paired else None,
        "lost": paired.lost if paired else None,
        "mcnemar_p": paired.mcnemar_p if paired else None,
    }


def _acceptance(acceptance: Acceptance | None) -> dict[str, Any]:
    return {
        "tau": acceptance.mean_acceptance_length if acceptance else None,
        "acceptance_rate": acceptance.acceptance_rate if acceptance else None,
        "loose_share": acceptance.loose_share if acceptance else None,
        "rounds": acceptance.rounds if acceptance else None,
    }


def _spread(name: str, interval: Interval | None) -> Iterator[tuple[str, float | None]]:
    yield name, interval.estimate if interval else None
    yield f"{name}_low", interval.low if interval else None
    yield f"{name}_high", interval.high if interval else None
