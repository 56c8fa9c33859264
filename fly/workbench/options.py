"""Options of a comparison or a sweep.  What can be refused before a task or a model is loaded is
refused here."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fly.config.batch_size import read_batch_size
from fly.errors import ConfigError, MissingExtraError
from fly.formats import comparison as comparison_format
from fly.harness.arguments import ModelArguments, check_state
from fly.stats.margins import SHARE, Margin, Points, Share
from fly.tasks import TASKS_PATH
from fly.workbench.methods import parse_methods
from fly.workbench.plan import Plan
from fly.workbench.store import check_folder

DEFAULT_METHODS = ("target", "native", "fly")
DEFAULT_BATCH_SIZE = 16
_STATISTICS = ("scipy", "statsmodels", "pandas")  # of the extra `stats`


@dataclass(frozen=True, kw_only=True)
class Options:
    """As they were given, by a command line or from Python."""

    model_args: Mapping[str, Any]  # of FLyLM
    harness: Mapping[str, Any]  # of lm-eval's simple_evaluate
    methods: Sequence[str] = DEFAULT_METHODS
    batch_size: int | str | None = DEFAULT_BATCH_SIZE
    margin: float | None = None
    margin_points: float | None = None
    metric: str | None = None
    output_path: str | Path | None = None
    resume: bool = False
    trace: bool = False
    command: str | None = None  # how it is repeated


def make_plan(given: Options, result_name: str = comparison_format.FILE_NAME) -> Plan:
    """Check everything that needs neither task nor model.

    Raises:
        ConfigError: a setting, a method, the margin or the output folder is wrong.
        JournalError: the run to go on with was started with other methods.
        MissingExtraError: the libraries of the statistics are not installed.
    """
    require_statistics()
    config = ModelArguments.split(dict(given.model_args)).config
    rows = read_batch_size(DEFAULT_BATCH_SIZE if given.batch_size is None else given.batch_size)
    if isinstance(rows, str):
        raise ConfigError(
            f"--batch_size is {rows!r}, but methods are compared at the same number of rows",
            fix="give a number; the fastest one for plain decoding is looked for anyway",
        )
    margin = read_margin(given.margin, given.margin_points)
    check_alone()
    folder = _output_folder(given, result_name)
    methods = parse_methods(given.methods, config, rows)
    for method in methods:
        check_state(method.config)
    options = dict(given.harness)
    if not options.get("task_manager"):  # last, since listing lm-eval's tasks takes seconds
        from lm_eval.tasks import TaskManager

        options["task_manager"] = TaskManager(include_path=str(TASKS_PATH))
    plan = Plan(
        config=config,
        arguments=dict(given.model_args),
        options=options,
        methods=methods,
        batch_size=rows,
        margin=margin,
        metric=given.metric,
        folder=folder,
        resume=given.resume,
        trace=given.trace,
        command=given.command,
    )
    plan.check_resumed()
    return plan


def _output_folder(given: Options, result_name: str) -> Path | None:
    if given.output_path is None:
        if given.resume:
            raise ConfigError(
                "--resume needs the folder of the run that is to go on", fix="add --output_path"
            )
        return None
    folder = Path(given.output_path)
    check_folder(folder, result_name, resume=given.resume)
    return folder


def check_alone() -> None:
    """Refuse to be one of several processes.

    Raises:
        ConfigError: it is.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "methods are timed in one process, but this is one of several",
            fix="run the comparison without accelerate launch or torchrun",
        )


# A hundredth of a point takes hundreds of millions of items to show.
LEAST_POINTS, MOST_SHARE = 0.01, 0.9999


def read_margin(share: float | None, points: float | None) -> Margin:
    """The share of the target's score that has to be kept, or the points that may be lost.

    Raises:
        ConfigError: both are given, or one is out of range: less than this no task can show.
    """
    if share is not None and points is not None:
        raise ConfigError(
            f"--margin is {share!r} and --margin_points {points!r}, but one margin decides",
            fix="give one of them",
        )
    if points is not None:
        if not LEAST_POINTS <= points < math.inf:
            raise ConfigError(
                f"--margin_points is {points!r}, but it is what may be lost, in points",
                fix=f"give {LEAST_POINTS} or more; 2 allows a score of 0.80 to fall to 0.78",
            )
        return Points(points)
    share = SHARE if share is None else share
    if not 0 < share <= MOST_SHARE:
        raise ConfigError(
            f"--margin is {share!r}, but it is the share of the target's score to be kept",
            fix=f"give a number between 0 and {MOST_SHARE}; 0.97 allows to lose 3 % of the score",
        )
    return Share(share)


def require_statistics() -> None:
    """Make sure that the statistics can be computed, before hours are spent.

    Raises:
        MissingExtraError: a library is not installed.
    """
    missing = [name for name in _STATISTICS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"a comparison needs {', '.join(missing)}, which is not installed",
            fix="pip install 'fly-decoding[stats]', in a clone: pip install -e '.[stats]'",
        )
