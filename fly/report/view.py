"""Contents of the page, from the results.  A headline, cards of verdicts, tables, plots, notes.
The template only arranges them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from fly.formats.comparison import Comparison, MethodResult, TaskResult
from fly.report import charts, numbers
from fly.report.charts import ChartEntry, Reference, Series
from fly.report.folder import Results
from fly.report.harness import Measured, pool
from fly.report.plots import Plot
from fly.report.tables import (
    VERDICT_KINDS,
    Table,
    costs_table,
    measured_table,
    methods_table,
    others_table,
    points_table,
    run_table,
)
from fly.stats.records import Interval


@dataclass(frozen=True)
class Card:
    """A verdict in a few words."""

    verdict: str
    kind: str
    method: str
    task: str
    facts: list[tuple[str, str]]
    explanation: str


@dataclass(frozen=True)
class View:
    """The page without its token view."""

    title: str
    lead: str
    cards: list[Card]
    tables: list[Table]
    costs: list[Table]
    points: Table | None
    plots: list[Plot]
    facts: list[tuple[str, str]]  # how it was measured
    config: str  # JSON, indented
    notes: list[str]


def build(results: Results) -> View:
    """The view of a folder, whichever command wrote it."""
    compared, swept = results.comparison, results.sweep
    plots = list(_plots(results))
    notes = list(results.notes)
    if compared is None and swept is None:
        return _of_run(results, plots, notes)
    if compared is not None:
        notes = [*compared.notes, *notes]
    source = swept or compared
    assert source is not None
    return View(
        title=f"{source.target}" + (f" with {source.draft}" if source.draft else ""),
        lead=swept.conclusion if swept else _lead(compared) if compared else "",
        cards=_cards(compared) if compared else [],
        tables=list(_tables(compared)) if compared else [],
        costs=[costs_table(task) for task in compared.tasks] if compared else [],
        points=points_table(swept) if swept else None,
        plots=plots,
        facts=_facts(results),
        config=_indented(source.config),
        notes=notes,
    )


def _tables(compared: Comparison) -> Iterator[Table]:
    for task in compared.tasks:
        yield methods_table(task)
        others = others_table(task)
        if others is not None:
            yield others


def _of_run(results: Results, plots: list[Plot], notes: list[str]) -> View:
    run = results.run
    assert run is not None
    tables = [run_table(run.tasks)] if run.tasks else []
    tables += [measured_table(pool(results.answers))] if results.answers else []
    arguments = run.config.get("model_args")
    shown = arguments if isinstance(arguments, dict) else results.settings
    target = str(shown.get("pretrained") or run.config.get("model") or results.folder.name)
    lead = "A run by itself: without a comparison there is no verdict on loosening."
    facts = [("Folder", results.folder.name)]
    config = _indented(run.config or results.settings)
    return View(target, lead, [], tables, [], None, plots, facts, config, notes)


def _lead(compared: Comparison) -> str:
    verdicts = [method.verdict for _, method in _methods(compared) if method.verdict]
    if not verdicts:
        return "Nothing was loosened, or scores are not per item: there is no verdict."
    counts = [
        f"{sum(one.verdict == name for one in verdicts)} {name}"
        for name in VERDICT_KINDS
        if any(one.verdict == name for one in verdicts)
    ]
    margin = f"{numbers.percent(compared.margin, 0)} of the target's score"
    if compared.margin_points is not None:
        margin = f"{compared.margin_points:g} points of the score"
    return (
        f"Margin {margin}, "
        f"{numbers.percent(compared.confidence, 0)} one-sided: {', '.join(counts)}."
    )


def _methods(compared: Comparison) -> Iterator[tuple[TaskResult, MethodResult]]:
    for task in compared.tasks:
        for method in task.methods:
            yield task, method


def _cards(compared: Comparison) -> list[Card]:
    cards = []
    for task, method in _methods(compared):
        verdict, paired = method.verdict, method.paired
        if verdict is None:
            continue
        facts = []
        for name, speedup in (
            ("against target", method.speed.vs_target),
            ("against baseline", method.speed.vs_baseline),
        ):
            if speedup is not None and speedup.estimate is not None:
                facts.append((numbers.times(speedup.estimate), name))
        if paired is not None and compared.margin is None:
            facts.append((numbers.points(paired.difference, task.point), "points of the score"))
        elif paired is not None and paired.recovery.estimate is not None:
            facts.append((numbers.percent(paired.recovery.estimate), "of the target's score"))
        kind = VERDICT_KINDS[verdict.verdict]
        cards.append(
            Card(verdict.verdict, kind, method.name, task.task, facts, verdict.explanation)
        )
    return cards


def _facts(results: Results) -> list[tuple[str, str]]:
    compared, swept = results.comparison, results.sweep
    facts: list[tuple[str, str]] = []
    if swept is not None:
        saving = swept.saving
        facts += [
            ("Grid", "; ".join(f"{key}={values}" for key, values in swept.grid.items())),
            ("Tasks", ", ".join(swept.tasks)),
            ("Items searched", f"{swept.num_search_items:,}"),
            ("Items held out", f"{swept.num_heldout_items:,}"),
            (
                "Rounds decoded",
                f"{saving.rounds_decoded:,} of {saving.rounds_of_all_points:,} "
                f"({numbers.percent(saving.share_saved)} saved)",
            ),
        ]
        facts += [("Recommended setting", json.dumps(swept.recommended_config))]
    if compared is not None:
        facts += [
            ("Baseline", compared.baseline),
            ("Control (noise floor)", compared.control),
            ("Margin", _margin(compared)),
            ("Batch", f"{compared.batch_size}, blocks of {compared.block_size} requests"),
        ]
    source = compared or swept
    for key, value in (source.environment if source else {}).items():
        facts.append((key.replace("_", " "), value if isinstance(value, str) else _plain(value)))
    return facts


def _margin(compared: Comparison) -> str:
    if compared.margin is None:
        lost = ", ".join(
            f"{compared.margin_points or 0:g} points ({task.point:g} of the score each) on "
            f"{task.task}"
            for task in compared.tasks
        )
        return f"may be lost: {lost}"
    points = ", ".join(
        f"{task.margin_points:.2f} points on {task.task}"
        for task in compared.tasks
        if task.margin_points is not None
    )
    return f"{compared.margin:g} of the target's score" + (f": {points}" if points else "")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)


def _indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _plots(results: Results) -> Iterator[Plot]:
    compared, swept = results.comparison, results.sweep
    if swept is not None and swept.points:
        least = swept.margin if swept.margin is not None else -(swept.margin_points or 0.0)
        in_points = swept.margin is None
        yield charts.frontier(
            "frontier", swept.points, swept.recommended, least, in_points=in_points
        )
    if compared is not None:
        yield from _comparison_plots(compared)
        measured = [
            Measured(task.task, one.name, 0, 0, one.acceptance, one.seconds_by_phase)
            for task, one in _methods(compared)
        ]
    else:
        measured = pool(results.answers)
    yield from _decoding_plots(measured)


def _comparison_plots(compared: Comparison) -> Iterator[Plot]:
    speeds, kept = [], []
    is_share = compared.margin is not None
    for task, method in _methods(compared):
        is_control = method.role == "control"
        if method.speed.vs_target is not None and method.role != "target":
            speeds.append(ChartEntry(task.task, method.name, method.speed.vs_target, is_control))
        if method.paired is not None:
            paired = method.paired
            interval = paired.recovery if is_share else _in_points(task, paired.difference)
            kept.append(ChartEntry(task.task, method.name, interval, is_control))
    even = Reference(1.0, "target")
    if compared.margin is not None:
        limit = Reference(compared.margin, f"margin {compared.margin:g}", is_limit=True)
        name, unit = "Recovery", "of the target's score"
    else:
        lost = compared.margin_points or 0.0
        limit = Reference(-lost, f"margin {lost:g} points", is_limit=True)
        name, unit = "Difference", "points better than the target's score"
    title = "Speedup against the target"
    found = (
        charts.intervals("speedup", title, "times the target's speed", speeds, [even]),
        charts.intervals(name.lower(), name, unit, kept, [limit]),
    )
    yield from (plot for plot in found if plot is not None)


def _in_points(task: TaskResult, difference: Interval) -> Interval:
    """What was gained, in points: the other way round where lower is better."""
    scale = (1 if task.methods[0].score.higher_is_better else -1) / task.point

    def scaled(value: float | None) -> float | None:
        return None if value is None else scale * value

    ends = [scaled(difference.low), scaled(difference.high)]
    low, high = ends if scale > 0 else reversed(ends)
    estimate = scaled(difference.estimate)
    return Interval(estimate=estimate, low=low, high=high, method=difference.method)


def _decoding_plots(measured: list[Measured]) -> Iterator[Plot]:
    for number, task in enumerate(dict.fromkeys(one.task for one in measured)):
        known = [
            (one.method, one.acceptance)
            for one in measured
            if one.task == task and one.acceptance is not None
        ]
        positions = [Series(name, found.by_position) for name, found in known]
        rounds = [Series(name, found.kept_per_round) for name, found in known]
        for plot in (
            charts.by_position(f"position{number}", task, positions),
            charts.kept_per_round(f"kept{number}", task, rounds),
        ):
            if plot is not None:
                yield plot
    phases = charts.phases(
        "phases", [(one.task, one.method, one.seconds_by_phase) for one in measured]
    )
    if phases is not None:
        yield phases
