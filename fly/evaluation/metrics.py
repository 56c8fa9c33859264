"""A task's metrics and how each becomes a score: a mean over items, or a function of all items at
once (lm-eval's aggregations such as bleu, ter or f1).  Known before a model is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.api import metrics as theirs

from fly.errors import ConfigError, FLyWarning
from fly.formats.comparison import POINT
from fly.registry import did_you_mean

if TYPE_CHECKING:
    from lm_eval.api.task import Task

Metric = tuple[str, str]  # name and filter, as in lm-eval's "exact_match,strict-match"
Aggregation = Callable[[Sequence[Any]], float]

# nanmean leaves out what is no number, as is done here with every mean.
MEANS: tuple[Aggregation, ...] = (theirs.mean, theirs.nanmean)
# sacrebleu's, which run from 0 to 100.
HUNDREDS: tuple[Aggregation, ...] = tuple(
    found for name in ("bleu", "chrf", "chrfpp", "ter") if (found := getattr(theirs, name, None))
)


@dataclass(frozen=True)
class Measure:
    """How values of single items become a score."""

    name: str
    aggregation: Aggregation | None  # None where lm-eval knows none of that name
    higher_is_better: bool

    @property
    def is_mean(self) -> bool:
        """Over items that have a number."""
        return self.aggregation in MEANS

    @property
    def is_usable(self) -> bool:
        """Whether it says anything: lm-eval's `bypass` is the same number for whatever it gets."""
        return self.aggregation is not None and self.aggregation is not theirs.bypass_agg

    @property
    def point(self) -> float:
        """How much of the score is called a point."""
        return 1.0 if self.aggregation in HUNDREDS else POINT


def measure_of(task: Task, name: str) -> Measure:
    """A metric's; like lm-eval, one that the task does not declare is a mean."""
    direction = task.higher_is_better().get(name)
    return Measure(
        name,
        task.aggregation().get(name, theirs.mean),
        True if direction is None else bool(direction),
    )


def declared(task: Task) -> list[Measure]:
    """What the task says that it measures."""
    return [measure_of(task, name) for name in task.aggregation()]


def named(metric: Metric) -> str:
    """As lm-eval's results and `--metric` have it."""
    return ",".join(metric)


def check_metrics(tasks: Mapping[str, Task], wanted: str | None) -> None:
    """Refuse what cannot be compared, and say what is no mean, before anything is decoded.

    Raises:
        ConfigError: a task has no metric of the name `wanted`, or none that can be compared.

    Warns:
        FLyWarning: a function of all items decides; or a metric does not say what is better.
    """
    for name, task in tasks.items():
        if wanted is not None:
            _check_name(name, task, wanted)
        own = declared(task)
        if wanted is not None:
            own = [each for each in own if each.name == wanted.partition(",")[0]]
        if not own:
            continue  # names that show with scores
        if not any(each.is_usable for each in own):
            told = ", ".join(each.name for each in own)
            raise ConfigError(
                f"task {name!r}: lm-eval has no aggregation that makes a score of its metric "
                f"({told}), so nothing can be compared",
                fix="name another task, or mend `aggregation:` in its metric_list",
            )
        _announce(name, task, own)


def _announce(name: str, task: Task, own: Sequence[Measure]) -> None:
    usable = [each for each in own if each.is_usable]
    deciding = next((each for each in usable if each.is_mean), usable[0])
    if not deciding.is_mean:
        _warn(
            f"task {name!r}: {deciding.name} is no mean over items but a function of all of them, "
            "so its interval and verdict come from drawing the documents again (paired bootstrap)"
        )
    if task.higher_is_better().get(deciding.name) is None:
        _warn(
            f"task {name!r} does not say whether a higher {deciding.name} is better; it is taken "
            "to be"
        )


def _check_name(name: str, task: Task, wanted: str) -> None:
    """Refuse a name that the task cannot have."""
    metric, _, filter_name = wanted.partition(",")
    metrics = list(task.aggregation())
    filters = [each.name for each in getattr(task, "_filters", [])]
    is_known = metric in metrics or _names_are_open(task)
    if not is_known or (filter_name and filter_name not in filters):
        raise ConfigError(
            f"task {name!r} has no metric {wanted!r}{did_you_mean(metric, metrics)}",
            fix=f"choose one of {', '.join(f'{m},{f}' for m in metrics for f in filters)}",
        )


def _names_are_open(task: Task) -> bool:
    """Whether functions name the task's metrics, as in pass@1 of a `pass_at_k`."""
    listed = getattr(task.config, "metric_list", None) or []
    return any(callable(each.get("metric")) or each.get("hf_evaluate") for each in listed)


def _warn(message: str) -> None:
    warnings.warn(message, FLyWarning, stacklevel=4)
