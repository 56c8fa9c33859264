"""The workbench from Python, with the functions `compare` and `sweep`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fly.formats.comparison import Comparison
    from fly.formats.sweep import Sweep


def compare(
    model_args: Mapping[str, Any],
    tasks: Sequence[str],
    *,
    methods: Sequence[str] = ("target", "native", "fly"),
    batch_size: int = 16,
    margin: float | None = None,
    margin_points: float | None = None,
    metric: str | None = None,
    output_path: str | Path | None = None,
    resume: bool = False,
    trace: bool = False,
    **options: Any,
) -> Comparison:
    """Run several ways of decoding over the same requests and judge them, as `fly compare` does.

    Args:
        model_args: of `FLyLM`: config_path, pretrained (the draft), every key of the configuration.
        tasks: lm-eval's, or the embedded ones.
        methods: names as in `fly compare --methods`.
        batch_size: rows decoded at once.
        margin: share of the target's score that has to be kept; 0.97 where neither is given.
        margin_points: in its place, what may be lost: hundredths of the score (of BLEU, chrF and
            TER, which run to 100, units).
        metric: the one that decides, as in "exact_match" or "exact_match,strict-match"; None takes
            each task's first mean over items, else its first.
        output_path: a folder for results, answers and what a killed run goes on from.
        resume: go on with the run in `output_path`.
        trace: keep every round's decisions for `fly report`.
        options: of lm-eval's `simple_evaluate`: limit, num_fewshot, apply_chat_template, ...

    Raises:
        ConfigError: something is wrong that can be known before a model is loaded.
        JournalError: the output folder belongs to another run, or is damaged.
    """
    from fly.workbench.comparing import run
    from fly.workbench.options import Options, make_plan

    given = Options(
        model_args=model_args,
        harness={"tasks": list(tasks), **options},
        methods=methods,
        batch_size=batch_size,
        margin=margin,
        margin_points=margin_points,
        metric=metric,
        output_path=output_path,
        resume=resume,
        trace=trace,
    )
    return run(make_plan(given), _ignore, _ignore)


def sweep(
    model_args: Mapping[str, Any],
    tasks: Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    *,
    heldout: float = 0.5,
    batch_size: int = 16,
    margin: float | None = None,
    margin_points: float | None = None,
    metric: str | None = None,
    output_path: str | Path | None = None,
    resume: bool = False,
    **options: Any,
) -> Sweep:
    """Look for the fastest setting that keeps the score, as `fly sweep` does.

    Args:
        model_args: as for `compare`.
        tasks: as for `compare`.
        grid: values to try by key of the configuration.
        heldout: share of the documents that the search does not see.
        batch_size: as for `compare`.
        margin: as for `compare`.
        margin_points: as for `compare`.
        metric: as for `compare`.
        output_path: as for `compare`; recommended.json in it is a configuration.
        resume: as for `compare`.
        options: as for `compare`.

    Raises:
        ConfigError: something is wrong that can be known before a model is loaded.
        JournalError: the output folder belongs to another run, or is damaged.
    """
    from fly.workbench.options import Options
    from fly.workbench.sweeps.grid import check_grid
    from fly.workbench.sweeps.run import make_sweep_plan, run

    given = Options(
        model_args=model_args,
        harness={"tasks": list(tasks), **options},
        batch_size=batch_size,
        margin=margin,
        margin_points=margin_points,
        metric=metric,
        output_path=output_path,
        resume=resume,
    )
    checked = check_grid({key: list(values) for key, values in grid.items()})
    return run(make_sweep_plan(given, checked, heldout), _ignore, _ignore)


def _ignore(*_: object) -> None:
    """Nobody watches."""
