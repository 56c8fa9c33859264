"""The run of a sweep, with its verdict on held-out items.  Choosing the best of many settings on
the same items flatters it, so the verdict needs items of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fly.errors import ConfigError
from fly.formats import sweep as sweep_format
from fly.formats.answers import kept_by_position
from fly.formats.comparison import Comparison, MethodResult
from fly.formats.sweep import Point, Saving, Sweep
from fly.harness.arguments import check_state
from fly.stats.margins import Margin
from fly.workbench import environment
from fly.workbench.comparing import Loaded, carry_out
from fly.workbench.explain import FirstLook
from fly.workbench.methods import NATIVE, TARGET, Method, parse_method
from fly.workbench.metrics import Metric, measure_of, named
from fly.workbench.options import Options, make_plan
from fly.workbench.plan import Plan
from fly.workbench.results import shown
from fly.workbench.store import Store, write_result, write_text
from fly.workbench.sweeps.grid import GridPoint, grid_points
from fly.workbench.sweeps.halving import Recommendation, Standing, frontier, recommend
from fly.workbench.sweeps.search import OnProgress, Search, Tried, halves
from fly.workbench.tasks import Asked

if TYPE_CHECKING:
    from fly.harness import FLyLM
    from fly.workbench.tasks import Tasks

HELD_OUT = 0.5
CONFIG_NAME = "recommended.json"
_HELD_OUT_FOLDER = "heldout"


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep."""

    plan: Plan
    grid: Mapping[str, list[object]]
    points: Sequence[GridPoint]
    heldout: float  # share of the documents

    @property
    def fixed(self) -> list[str]:
        """Drafters whose lengths are left open, and fixed since points share their rounds."""
        if self.plan.config.draft_length is not None:
            return []
        found = [point.config for point in self.points if point.config.draft_length == "fixed"]
        return sorted({config.drafter_name for config in found})


def make_sweep_plan(
    given: Options, grid: Mapping[str, list[object]], heldout: float = HELD_OUT
) -> SweepPlan:
    """Check everything that needs neither task nor model.

    Args:
        given: its methods are of no account.
        grid: values by key, checked by `grid.check_grid`.
        heldout: share of the documents that the search does not see.

    Raises:
        ConfigError: a setting or the output folder is wrong, or a point of the grid is impossible.
    """
    if not 0 < heldout < 1:
        raise ConfigError(
            f"--heldout is {heldout!r}, but it is the share of items kept for the verdict",
            fix="give a number between 0 and 1, such as 0.5",
        )
    plan = make_plan(replace(given, methods=[TARGET, NATIVE]), sweep_format.FILE_NAME)
    points = grid_points(grid, overrides=plan.config.to_dict())
    for point in points:
        _check_point(point)
        check_state(point.config)
    methods = [Method(each.name, each.config, plan.batch_size) for each in points]
    told = {"grid": {key: list(values) for key, values in grid.items()}, "heldout": heldout}
    plan = replace(plan, more=told, more_methods=methods)
    plan.check_resumed()
    return SweepPlan(plan, grid, points, heldout)


def _check_point(point: GridPoint) -> None:
    if point.config.setup.is_plain:
        raise ConfigError(
            f"point {point.name}: nothing is drafted, so there is nothing to choose",
            fix="leave use_sd and drafter none out of the grid: the target is always measured",
        )
    if point.config.setup.traits.needs_model and point.config.draft_model_path is None:
        raise ConfigError(
            f"point {point.name}: drafter {point.config.drafter_name!r} needs a draft model, and "
            "none is named",
            fix="add pretrained=DRAFT to --model_args",
        )


def run(sweep: SweepPlan, on_start: Callable[[int], None], on_progress: OnProgress) -> Sweep:
    """Carry out a sweep.

    Args:
        sweep: checked; its tasks are loaded, its models not yet.
        on_start: gets about how many answers there will be.
        on_progress: gets a point's name and how many more of its answers are finished.
    """
    plan = sweep.plan
    tasks = plan.load_tasks()
    lm = plan.load_models()
    ready = plan.read_requests(lm, tasks)
    if any(one.request.temperature > 0 for one in ready):
        raise ConfigError(
            "a request samples, but a sweep decodes greedily",
            fix="leave do_sample and temperature out of --gen_kwargs and the tasks",
        )
    seen, unseen = halves(ready, sweep.heldout)
    if not seen or not unseen:
        raise ConfigError(
            f"{len(ready)} requests cannot be split into a search and a held-out part",
            fix="raise --limit, or change --heldout",
        )
    with lm.precision(), plan.open_store(lm, {TARGET: plan.target.open(lm)}, ready) as store:
        loaded = Loaded(lm, tasks, seen, _deciding(plan, lm, tasks, seen, store))
        on_start(len(seen) * (1 + len(sweep.points)))
        search = Search(plan, loaded, seen, sweep.points, store, on_progress)
        tried = search.run()
        saving = _saving(tried, search)
    found = recommend(
        [each.standing for each in tried if each.stopped is None],
        plan.margin.least,
        lambda standing: _needed(standing, tried, sweep),
        plan.margin.quantity,
    )
    chosen = next((each for each in tried if each.point.name == found.name), None)
    verdict = None
    if chosen is not None:
        unseen_by_search = replace(loaded, ready=unseen)
        verdict = carry_out(_verifying(plan, chosen.point), unseen_by_search, on_start, on_progress)
    result = _result(sweep, search, tried, saving, found, verdict)
    if plan.folder is not None:
        write_result(plan.folder / sweep_format.FILE_NAME, result)
        if chosen is not None:
            text = json.dumps(chosen.point.config.to_dict(), indent=2)
            write_text(plan.folder / CONFIG_NAME, text + "\n")
    return result


def _deciding(
    plan: Plan, lm: FLyLM, tasks: Tasks, ready: Sequence[Asked], store: Store
) -> dict[str, Metric]:
    """The metric that decides, by task, as a first look at answers has it.

    Raises:
        ConfigError: it is no mean over items, or one where less is better.
    """
    look = FirstLook(plan.target, lambda method: method.open(lm), store, plan.metric)
    found = look.deciding(tasks, ready)
    for name, metric in found.items():
        measure = measure_of(tasks.by_name[name], metric[0])
        if not (measure.is_mean and measure.higher_is_better):
            raise ConfigError(
                f"task {name!r}: a sweep chooses by a mean over items that is better when higher, "
                f"and {named(metric)} is none",
                fix="compare single settings with `fly compare`, or name another task or --metric",
            )
    return found


def _needed(standing: Standing, tried: Sequence[Tried], sweep: SweepPlan) -> int | None:
    """Items in all, those held out included, that would let a point be recommended."""
    point = next(each for each in tried if each.point.name == standing.name)
    needed = point.items_needed
    return None if needed is None else math.ceil(needed / (1 - sweep.heldout))


def _verifying(plan: Plan, point: GridPoint) -> Plan:
    """The comparison on held-out items: the target, native and the point."""
    name = f"{point.config.setup.rule_name}:{point.name}"
    chosen = Method(name, point.config, plan.batch_size)
    native = parse_method(NATIVE, point.config, plan.batch_size)
    methods = [plan.methods[0], native]
    if not chosen.is_lossless or chosen.config.drafter_name != native.config.drafter_name:
        methods.append(chosen)
    folder = None if plan.folder is None else plan.folder / _HELD_OUT_FOLDER
    return replace(plan, methods=methods, more={}, more_methods=(), folder=folder)


def _saving(tried: Sequence[Tried], search: Search) -> Saving:
    each = {one.point.name: one.statistics.rounds for one in tried}
    items = {one.point.name: one.num_items for one in tried}
    whole = sum(round(each[name] * search.num_items / items[name]) for name in each)
    decoded = search.store.rounds_decoded + search.rounds_calibrating
    return Saving(
        rounds_of_all_points=sum(each.values()),
        rounds_decoded=decoded,
        rounds_if_none_had_stopped=whole,
        share_saved=1 - decoded / whole if whole else 0.0,
    )


def _result(
    sweep: SweepPlan,
    search: Search,
    tried: Sequence[Tried],
    saving: Saving,
    found: Recommendation,
    verdict: Comparison | None,
) -> Sweep:
    plan = sweep.plan
    whole = [one for one in tried if one.stopped is None]
    front = set(frontier([one.standing for one in whole]))
    chosen = next((one.point for one in tried if one.point.name == found.name), None)
    config = environment.told(plan.config)
    return Sweep(
        environment=environment.describe(plan.command),
        target=config["target_model_path"],
        draft=config["draft_model_path"],
        config=config,
        tasks=list(dict.fromkeys(one.task for one in search.ready)),
        grid={key: list(values) for key, values in sweep.grid.items()},
        margin=plan.margin.share,
        margin_points=plan.margin.points,
        num_search_items=search.num_items,
        num_heldout_items=sum(task.num_items for task in verdict.tasks) if verdict else 0,
        points=[_point(one, one.point.name in front, plan.margin) for one in tried],
        saving=saving,
        recommended=found.name,
        recommended_config=None if chosen is None else environment.told(chosen.config),
        heldout=verdict,
        conclusion=_conclude(found, tried, plan.margin, verdict, sweep.fixed),
    )


def _point(tried: Tried, on_frontier: bool, margin: Margin) -> Point:
    pooled = tried.statistics
    metrics = pooled.metrics()
    equal = [ours.token_ids == tried.own[key].token_ids for key, ours in tried.answers.items()]
    paired = shown(tried.paired, sum(equal), len(equal), margin)
    return Point(
        name=tried.point.name,
        settings=tried.point.settings,
        is_lossless=not tried.point.config.setup.is_loose,
        num_items=tried.num_items,
        stopped=tried.stopped,
        score=tried.score,
        recovery=paired.recovery,
        recovery_lower=None if margin.share is None else tried.lower,
        points_lower=None if margin.points is None else tried.lower,
        paired=paired,
        speedup=tried.speedup,
        mean_acceptance_length=metrics["mean_acceptance_length"],
        acceptance_rate=metrics["acceptance_rate"],
        loose_share=metrics["loose_share"],
        rounds=pooled.rounds,
        by_position=kept_by_position(tried.answers.values()),
        mean_tokens=pooled.emitted / len(tried.answers),
        mean_tokens_target=sum(len(tried.own[key].token_ids) for key in tried.answers)
        / len(tried.answers),
        num_equal=sum(equal),
        num_answers=len(equal),
        on_frontier=on_frontier,
    )


def _conclude(
    found: Recommendation,
    tried: Sequence[Tried],
    margin: Margin,
    verdict: Comparison | None,
    fixed: Sequence[str],
) -> str:
    """The search's conclusion and what held-out items add; which drafters' lengths were fixed
    for it."""
    told = [found.conclusion[:1].upper() + found.conclusion[1:] + "."]
    if found.name is None:
        unsupported = [margin.why_unsupported(paired) for one in tried for paired in one.by_task]
        told += [text for text in unsupported if text][:1]
    for task in verdict.tasks if verdict else []:
        method = _chosen(task.methods, found.name)
        speed = method.speed.vs_target
        measured = "" if speed is None or speed.estimate is None else f" at {speed.estimate:.2f}x"
        name = method.verdict.verdict if method.verdict else "lossless"
        why = f" {method.verdict.explanation}" if method.verdict else ""
        told.append(f"On {task.num_items} held-out items of {task.task}: {name}{measured}.{why}")
    if fixed:
        told.append(
            f"draft_length was fixed, as in every sweep; left open it is adaptive for "
            f"{', '.join(fixed)}."
        )
    return " ".join(told)


def _chosen(methods: Sequence[MethodResult], point: str | None) -> MethodResult:
    named = [method for method in methods if method.name.endswith(f":{point}")]
    return named[0] if named else next(method for method in methods if method.name == NATIVE)
