"""`compare`: all methods over the same requests, with a verdict that was fixed before the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fly.evaluation import environment
from fly.evaluation.assembling import AnswerKey, Compared, Decoded, task_result, texts_beside
from fly.evaluation.columns import columns, pointer
from fly.evaluation.divergence import Divergences
from fly.evaluation.drafting import copying_notes, drafting_notes, length_notes, speed_notes
from fly.evaluation.looking import FirstLook
from fly.evaluation.measuring import (
    SEARCHED,
    Ready,
    Slice,
    control_size,
    cut,
    fastest,
    measure,
    search,
    spread,
    warm_up,
)
from fly.evaluation.memory import PeakMemory
from fly.evaluation.methods import GENERATE, Method, parse_method
from fly.evaluation.metrics import Metric, named
from fly.evaluation.plan import Plan
from fly.evaluation.runners import EngineRunner, Runner, make_runner
from fly.evaluation.scoring import Doc, Scorer
from fly.evaluation.store import Store, write_result, write_text
from fly.formats import comparison as comparison_format
from fly.formats import items as items_format
from fly.formats.comparison import Comparison, Role
from fly.stats.judged import CONFIDENCE
from fly.stats.margins import Margin
from fly.stats.records import Verdict
from fly.stats.verdict import judge_all

if TYPE_CHECKING:
    from fly.backend import FLyLM
    from fly.evaluation.workload import Tasks
    from fly.formats.answers import Answer
    from fly.formats.items import Divergence, Item

OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class Loaded:
    """The models, the tasks, and the requests to decode."""

    lm: FLyLM
    tasks: Tasks
    ready: Sequence[Ready]
    deciding: Mapping[str, Metric] | None = None  # by task, where it is known already


@dataclass(frozen=True)
class Contest:
    """The methods of a comparison in the order of the first block, and what each is there for."""

    methods: Sequence[Method]
    roles: Mapping[str, Role]
    baseline: Method  # the fastest plain decoding
    control: str


def run(plan: Plan, on_start: Callable[[int], None], on_progress: OnProgress) -> Comparison:
    """Carry out a plan.

    Args:
        plan: checked; its tasks are loaded, its models not yet.
        on_start: told how many answers there will be.
        on_progress: told a method's name and how many more of its answers are finished.
    """
    tasks = plan.load_tasks()
    lm = plan.load_models()
    return carry_out(plan, Loaded(lm, tasks, plan.read_requests(lm, tasks)), on_start, on_progress)


def carry_out(
    plan: Plan, loaded: Loaded, on_start: Callable[[int], None], on_progress: OnProgress
) -> Comparison:
    """`run` with what has been loaded; the requests may be a part of the tasks'."""
    ready = loaded.ready
    with loaded.lm.precision(), plan.open_store(loaded.lm, ready) as store:

        def make(method: Method) -> Runner:
            return make_runner(method, loaded.lm, trace=plan.trace)

        deciding = loaded.deciding
        if deciding is None:
            look = FirstLook(plan.target, make, store, plan.metric)
            deciding = look.deciding(loaded.tasks, ready)
        contest = choose(plan, store, make, ready)
        runners = {method.name: make(method) for method in contest.methods}
        slices = cut(ready, plan.batch_size, contest.baseline.batch_size)
        on_start(len(ready) * len(contest.methods))
        keys = [one.asked.key for one in ready]
        if not all(store.has(method.name, key) for method in contest.methods for key in keys):
            warm_up(runners, ready)
        memory = PeakMemory(loaded.lm.device)
        measure(contest.methods, runners, slices, store, memory, on_progress)
        names = dict.fromkeys(one.asked.task for one in ready)
        compared = [_compared(loaded, name, deciding[name], contest, store) for name in names]
        drafting = {
            name: runner.drafting
            for name, runner in runners.items()
            if isinstance(runner, EngineRunner)
        }
        pooled = [
            (one.task, each.method, each.statistics) for one in compared for each in one.decoded
        ]
        notes = [
            *drafting_notes(drafting),
            *copying_notes(contest.methods),
            *length_notes(contest.methods),
            *speed_notes(pooled),
        ]
        result = _result(plan, contest, compared, slices, notes)
    if plan.folder is not None:
        _save(plan.folder, result, [item for one in compared for item in one.items()])
    return result


def choose(
    plan: Plan, store: Store, make: Callable[[Method], Runner], ready: Sequence[Ready]
) -> Contest:
    """Look for the fastest plain decoding, and put together what takes part: the methods asked for,
    the target at another batch size, and that baseline."""
    target = plan.target
    generate = parse_method(GENERATE, plan.config, plan.batch_size)
    if not store.search:
        warm_up({each.name: make(each) for each in (target, generate)}, ready)
        store.keep_search(search([target, generate], make, spread(ready, SEARCHED)))
    ours, theirs = (fastest(store.search, of=each) for each in (target, generate))
    baseline = max(ours, theirs, key=lambda method: store.search[method.name])
    control = target.at(control_size(plan.batch_size, ours.batch_size))
    roles: dict[str, Role] = {method.name: "method" for method in plan.methods}
    roles[target.name] = "target"
    methods = list(plan.methods)

    def add(method: Method, role: Role) -> None:
        if method.name not in roles:
            methods.append(method)
            roles[method.name] = role

    add(control, "control")
    if GENERATE in roles:
        add(theirs, "method")
    add(baseline, "baseline")
    return Contest(methods, roles, baseline, control.name)


def _compared(
    loaded: Loaded, task: str, deciding: Metric, contest: Contest, store: Store
) -> Compared:
    """Score one task's answers by all methods."""
    scorer = Scorer(loaded.tasks.by_name[task])
    own = [one for one in loaded.ready if one.asked.task == task]
    divergences = Divergences(loaded.lm.model)
    decoded: list[Decoded] = []
    for method in contest.methods:
        answers = {one.asked.key[1:]: store.answers[method.name][one.asked.key] for one in own}
        reference = decoded[0].answers if decoded else answers
        blocks = {
            block.block: block
            for block in store.blocks
            if block.method == method.name and block.task == task
        }
        decoded.append(
            Decoded(
                method=method,
                role=contest.roles[method.name],
                answers=answers,
                scores=scorer.score(texts_by_request(answers)),
                blocks=blocks,
                divergences=_find_divergences(divergences, own, reference, answers),
            )
        )
    clusters = {
        one.asked.instance.doc_id: one.asked.doc_hash or str(one.asked.instance.doc_id)
        for one in own
    }
    return Compared(
        task=task,
        scorer=scorer,
        docs=list(clusters),
        deciding=deciding,
        columns=columns(scorer, {each.method.name: each.scores for each in decoded}, clusters),
        decoded=decoded,
        has_phases=loaded.lm.device.type == "cpu",
    )


def texts_by_request(answers: Mapping[AnswerKey, Answer]) -> dict[tuple[Doc, int], list[str]]:
    """The copies' texts, in their order, by document and index of the request."""
    texts: dict[tuple[Doc, int], list[str]] = {}
    for (doc, idx, _), answer in sorted(answers.items(), key=lambda entry: entry[0][2]):
        texts.setdefault((doc, idx), []).append(answer.text)
    return texts


def _find_divergences(
    divergences: Divergences,
    ready: Sequence[Ready],
    reference: Mapping[AnswerKey, Answer],
    answers: Mapping[AnswerKey, Answer],
) -> dict[Doc, Divergence]:
    """For each document the first request, decoded greedily, whose answer is not the target's."""
    found: dict[Doc, Divergence] = {}
    for one in ready:
        key, request = one.asked.key[1:], one.prepared.request
        if request.temperature > 0 or key[0] in found:
            continue
        where = divergences.find(request.prompt_ids, reference[key], answers[key])
        if where is not None:
            found[key[0]] = where
    return found


def judge(compared: Sequence[Compared], margin: Margin) -> dict[tuple[str, str], Verdict]:
    """Verdicts by task and method on all that loosens the text, corrected for their number."""
    judged = [
        (one, each, paired)
        for one in compared
        for each in one.decoded
        if each.method.is_candidate and (paired := one.paired(each)) is not None
    ]
    verdicts = judge_all([paired for *_, paired in judged], margin, CONFIDENCE)
    return {
        (one.task, each.method.name): _with_remarks(verdict, one, each)
        for (one, each, _), verdict in zip(judged, verdicts, strict=True)
    }


def _with_remarks(verdict: Verdict, compared: Compared, decoded: Decoded) -> Verdict:
    """What the numbers alone do not tell: equal texts, and a metric that is the same everywhere."""
    texts, parts = texts_beside(compared.target, decoded), [verdict.explanation]
    if texts.num_equal == texts.num_answers:
        parts.insert(0, f"All {texts.num_answers:,} texts are identical to the target's.")
    if compared.column is not None:
        found = pointer(compared.column, compared.others, decoded.method.name)
        parts += [found] if found else []
    return replace(verdict, explanation=" ".join(parts))


def _result(
    plan: Plan,
    contest: Contest,
    compared: Sequence[Compared],
    slices: Sequence[Slice],
    more_notes: Sequence[str],
) -> Comparison:
    verdicts = judge(compared, plan.margin)
    results = []
    for one in compared:
        own = {name: verdict for (task, name), verdict in verdicts.items() if task == one.task}
        results.append(task_result(one, contest.baseline.name, own, plan.margin))
    config = environment.told(plan.config)
    return Comparison(
        environment=environment.describe(plan.command),
        target=config["target_model_path"],
        draft=config["draft_model_path"],
        config=config,
        tasks=results,
        margin=plan.margin.share,
        margin_points=plan.margin.points,
        confidence=CONFIDENCE,
        baseline=contest.baseline.name,
        control=contest.control,
        batch_size=plan.batch_size,
        block_size=max(len(one.requests) for one in slices),
        notes=[*_notes(compared, Counter(one.task for one in slices)), *more_notes],
    )


def _notes(compared: Sequence[Compared], num_blocks: Mapping[str, int]) -> list[str]:
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


def _save(folder: Path, result: Comparison, items: Sequence[Item]) -> None:
    lines = "".join(item.model_dump_json() + "\n" for item in items)
    write_text(folder / items_format.FILE_NAME, lines)
    write_result(folder / comparison_format.FILE_NAME, result)
