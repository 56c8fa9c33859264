"""Metrics of a task, and how each becomes a score.  A mean over items, or a function of all items
at once (lm-eval's aggregations such as bleu, ter or f1).  They are found before a model is loaded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sacrebleu
from lm_eval.api import metrics as theirs

from fly.errors import ConfigError, FLyWarning
from fly.registry import did_you_mean
from fly.stats.corpus import Evaluate, Places
from fly.stats.records import POINT

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
SAME = 1e-9  # relative: two ways to the same score
# sacrebleu's scores are functions of sums over sentences: a thousand times as fast as anew.
_SENTENCES: dict[str, Callable[[], Any]] = {
    "bleu": sacrebleu.BLEU,
    "chrf": sacrebleu.CHRF,
    "chrfpp": lambda: sacrebleu.CHRF(word_order=2),
    "ter": sacrebleu.TER,
}


@dataclass(frozen=True)
class Measure:
    """How values of single items become a score."""

    name: str
    aggregation: Aggregation | None  # None where lm-eval has none of that name
    higher_is_better: bool

    @property
    def is_mean(self) -> bool:
        """Over items that have a number."""
        return self.aggregation in MEANS

    @property
    def is_usable(self) -> bool:
        """Whether it means anything: lm-eval's `bypass` is the same number for whatever it gets."""
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
    """What the task is declared to measure."""
    return [measure_of(task, name) for name in task.aggregation()]


def named(metric: Metric) -> str:
    """As lm-eval's results and `--metric` have it."""
    return ",".join(metric)


def check_metrics(tasks: Mapping[str, Task], wanted: str | None) -> None:
    """Refuse what cannot be compared, and warn of what is no mean, before anything is decoded.

    Raises:
        ConfigError: a task has no metric of the name `wanted`, or none that can be compared.

    Warns:
        FLyWarning: a function of all items decides; or a metric does not define what is better.
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


def evaluator(aggregation: Aggregation, items: Sequence[Any]) -> Evaluate:
    """Scores parts of a method's items; NaN where a part has no score, as one of a single class."""
    try:
        summed = _sentence_sums(aggregation, items)
    except Exception:  # noqa: BLE001  as below: an item may be none that sacrebleu takes
        summed = None
    if summed is not None:
        return summed

    def evaluate(places: Places) -> float:
        try:
            return float(aggregation([items[place] for place in places]))
        except Exception:  # noqa: BLE001  tasks raise whatever they like
            return math.nan

    return evaluate


def _sentence_sums(aggregation: Aggregation, items: Sequence[Any]) -> Evaluate | None:
    """From sacrebleu's counts of every sentence; None for other scores, and where the counts do not
    lead to the same score (another version's defaults).
    """
    name = next((n for n in _SENTENCES if getattr(theirs, n, None) is aggregation), None)
    if name is None:
        return None
    metric = _SENTENCES[name]()
    references, texts = theirs._sacreformat(*zip(*items, strict=True))
    counts = np.asarray(metric._extract_corpus_statistics(texts, references), dtype=float)

    def evaluate(places: Places) -> float:
        return float(metric._compute_score_from_stats(counts[places].sum(axis=0).tolist()).score)

    whole = evaluate(np.arange(len(items)))
    return evaluate if math.isclose(whole, aggregation(items), rel_tol=SAME) else None
