"""The run of a comparison, from a checked plan to its results.  All methods decode the same
requests; the rule of the verdict was fixed before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fly.engine import Statistics
from fly.formats import comparison as comparison_format
from fly.formats.comparison import Comparison, Role
from fly.stats.judged import CONFIDENCE
from fly.stats.margins import Margin
from fly.stats.records import Verdict
from fly.stats.verdict import judge_all
from fly.workbench import environment
from fly.workbench.blocks import (
    SEARCHED,
    Slice,
    control_size,
    cut,
    fastest,
    measure,
    search,
    spread,
    warm_up,
)
from fly.workbench.columns import columns, pointer
from fly.workbench.divergence import Divergences
from fly.workbench.engines import Engine
from fly.workbench.explain import FirstLook
from fly.workbench.local import OwnEngine
from fly.workbench.methods import GENERATE, Method, parse_method
from fly.workbench.metrics import Metric
from fly.workbench.notes import (
    copying_notes,
    drafting_notes,
    length_notes,
    same_notes,
    speed_notes,
    task_notes,
)
from fly.workbench.plan import Plan
from fly.workbench.results import (
    AnswerKey,
    Compared,
    Decoded,
    statistics_of,
    task_result,
    texts_beside,
)
from fly.workbench.scoring import Doc, Scorer
from fly.workbench.shares import Look, Looks
from fly.workbench.store import Store, write_result, write_text
from fly.workbench.tasks import Asked

if TYPE_CHECKING:
    from fly.formats.answers import Answer
    from fly.formats.comparison import Divergence, Item
    from fly.harness import FLyLM
    from fly.workbench.tasks import Tasks

OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class Loaded:
    """The models, the tasks, and the requests to decode."""

    lm: FLyLM
    tasks: Tasks
    ready: Sequence[Asked]
    deciding: Mapping[str, Metric] | None = None  # by task, where it is known already


@dataclass(frozen=True)
class Contest:
    """The methods of a comparison, in the order of the first block."""

    methods: Sequence[Method]
    baseline: Method  # the fastest plain decoding
    control: str


def run(plan: Plan, on_start: Callable[[int], None], on_progress: OnProgress) -> Comparison:
    """Carry out a plan.

    Args:
        plan: checked; its tasks are loaded, its models not yet.
        on_start: gets how many answers there will be.
        on_progress: gets a method's name and how many more of its answers are finished.
    """
    tasks = plan.load_tasks()
    lm = plan.load_models()
    return carry_out(plan, Loaded(lm, tasks, plan.read_requests(lm, tasks)), on_start, on_progress)


def carry_out(
    plan: Plan, loaded: Loaded, on_start: Callable[[int], None], on_progress: OnProgress
) -> Comparison:
    """`run` with what has been loaded; the requests may be a part of the tasks'."""
    ready, lm = loaded.ready, loaded.lm

    def open_engine(method: Method) -> Engine:
        return method.open(lm, trace=plan.trace)

    with lm.precision():
        engines = {method.name: open_engine(method) for method in plan.methods}
        with plan.open_store(lm, engines, ready) as store:
            deciding = loaded.deciding
            if deciding is None:
                look = FirstLook(plan.target, open_engine, store, plan.metric)
                deciding = look.deciding(loaded.tasks, ready)
            contest = choose(plan, store, open_engine, ready)
            for method in contest.methods:
                if method.name not in engines:
                    engines[method.name] = open_engine(method)
            slices = cut(ready, plan.batch_size, contest.baseline.batch_size)
            on_start(len(ready) * len(contest.methods))
            asked = [(method.name, one.key) for method in contest.methods for one in ready]
            if not all(store.has(*answer) for answer in asked):
                warm_up(engines, ready)
            measure(contest.methods, engines, slices, store, on_progress)
            reports = {name: engine.report() for name, engine in engines.items()}
            looks = look_at(contest.methods, engines, ready, store)
            target = engines[contest.methods[0].name]
            compared = [
                _compared(loaded, task, deciding[task], contest.methods, store, target, looks)
                for task in dict.fromkeys(one.task for one in ready)
            ]
            notes = _notes(contest.methods, reports, compared, slices)
            result = _result(plan, contest, compared, slices, notes)
    if plan.folder is not None:
        _save(plan.folder, result, [item for one in compared for item in one.items()])
    return result


def _notes(
    methods: Sequence[Method],
    reports: Mapping[str, Mapping[str, Any]],
    compared: Sequence[Compared],
    slices: Sequence[Slice],
) -> list[str]:
    return [
        *task_notes(compared, Counter(one.task for one in slices)),
        *drafting_notes(reports),
        *copying_notes(methods),
        *length_notes(methods),
        *same_notes(methods),
        *speed_notes(compared),
    ]


def choose(
    plan: Plan, store: Store, open_engine: Callable[[Method], Engine], ready: Sequence[Asked]
) -> Contest:
    """Look for the fastest plain decoding, and put together what takes part: the methods asked for,
    the target at another batch size, and that baseline."""
    target = plan.target
    generate = parse_method(GENERATE, plan.config, plan.batch_size)
    if not store.search:
        warm_up({each.name: open_engine(each) for each in (target, generate)}, ready)
        store.keep_search(search([target, generate], open_engine, spread(ready, SEARCHED)))
    ours, theirs = (fastest(store.search, of=each) for each in (target, generate))
    baseline = max(ours, theirs, key=lambda method: store.search[method.name])
    control = target.at(control_size(plan.batch_size, ours.batch_size))
    named = {method.name: method for method in plan.methods}
    named[target.name] = replace(plan.methods[0], role="target")
    more: list[tuple[Method, Role]] = [(control, "control"), (baseline, "baseline")]
    if GENERATE in named:
        more.insert(1, (theirs, "method"))
    for method, role in more:
        named.setdefault(method.name, replace(method, role=role))
    return Contest(list(named.values()), baseline, control.name)


def _compared(
    loaded: Loaded,
    task: str,
    deciding: Metric,
    methods: Sequence[Method],
    store: Store,
    target: Engine,
    looks: Mapping[str, Look],
) -> Compared:
    """Score one task's answers by all methods."""
    scorer = Scorer(loaded.tasks.by_name[task])
    own = [one for one in loaded.ready if one.task == task]
    divergences = Divergences(target.top2)
    decoded: list[Decoded] = []
    for method in methods:
        answers = {one.key[1:]: store.answers[method.name][one.key] for one in own}
        reference = decoded[0].answers if decoded else answers
        decoded.append(
            Decoded(
                method=method,
                answers=answers,
                scores=scorer.score(texts_by_request(answers)),
                blocks={
                    block.block: block
                    for block in store.blocks
                    if block.method == method.name and block.task == task
                },
                divergences=_find_divergences(divergences, own, reference, answers),
                look=looks.get(method.name),
            )
        )
    clusters = {one.instance.doc_id: one.doc_hash or str(one.instance.doc_id) for one in own}
    return Compared(
        task=task,
        scorer=scorer,
        docs=list(clusters),
        deciding=deciding,
        columns=columns(scorer, {each.method.name: each.scores for each in decoded}, clusters),
        decoded=decoded,
        has_phases=target.device.type == "cpu",
    )


def look_at(
    methods: Sequence[Method],
    engines: Mapping[str, Engine],
    ready: Sequence[Asked],
    store: Store,
) -> dict[str, Look]:
    """What rounds are spent on, by the name of each method that was asked for and can be watched.
    After everything timed and reported: drafters may learn from it.
    """
    looks, found = Looks(), dict[str, Look]()
    for method in methods:
        engine = engines[method.name]
        if method.role in ("control", "baseline") or not isinstance(engine, OwnEngine):
            continue
        requests = [one.request for one in spread(ready, method.batch_size)]
        answers = store.answers[method.name].values()
        own = sum(map(statistics_of, answers), Statistics())
        look = looks.at(engine.decoder, requests, own)
        if look is not None:
            found[method.name] = look
    return found


def texts_by_request(answers: Mapping[AnswerKey, Answer]) -> dict[tuple[Doc, int], list[str]]:
    """The copies' texts, in their order, by document and index of the request."""
    texts: dict[tuple[Doc, int], list[str]] = {}
    for (doc, idx, _), answer in sorted(answers.items(), key=lambda entry: entry[0][2]):
        texts.setdefault((doc, idx), []).append(answer.text)
    return texts


def _find_divergences(
    divergences: Divergences,
    ready: Sequence[Asked],
    reference: Mapping[AnswerKey, Answer],
    answers: Mapping[AnswerKey, Answer],
) -> dict[Doc, Divergence]:
    """For each document the first request, decoded greedily, whose answer is not the target's."""
    found: dict[Doc, Divergence] = {}
    for one in ready:
        key, request = one.key[1:], one.request
        if request.temperature > 0 or key[0] in found:
            continue
        where = divergences.find(request.prompt_ids, reference[key], answers[key])
        if where is not None:
            found[key[0]] = where
    return found


def judge(compared: Sequence[Compared], margin: Margin) -> dict[tuple[str, str], Verdict]:
    """Verdicts by task and method on all that loosens the text, corrected for their number.

    Methods that are the same but for their names are one: the correction counts the first of
    them, and its verdict is the others', too.
    """
    judged = []
    for one in compared:
        candidates = [each for each in one.decoded if each.method.is_candidate]
        for each in candidates:
            first = next(other for other in candidates if other.method.is_same_as(each.method))
            paired = one.paired(each)
            if each is first and paired is not None:
                judged.append((one, each, paired))
    verdicts = judge_all([paired for *_, paired in judged], margin, CONFIDENCE)
    found = {}
    for (one, first, _), verdict in zip(judged, verdicts, strict=True):
        for each in one.decoded:
            if each is first or each.method.is_same_as(first.method):
                found[one.task, each.method.name] = _with_remarks(verdict, one, each, first)
    return found


def _with_remarks(
    verdict: Verdict, compared: Compared, decoded: Decoded, first: Decoded
) -> Verdict:
    """What the numbers alone do not show: equal texts, a metric that is the same everywhere, and
    that a method is `first` by another name."""
    texts, parts = texts_beside(compared.target, decoded), [verdict.explanation]
    if decoded is not first:
        parts.insert(0, f"The same settings as {first.method.name}, whose verdict this is.")
    elif texts.num_equal == texts.num_answers:
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
    notes: Sequence[str],
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
        notes=list(notes),
    )


def _save(folder: Path, result: Comparison, items: Sequence[Item]) -> None:
    lines = "".join(item.model_dump_json() + "\n" for item in items)
    write_text(folder / comparison_format.ITEMS_NAME, lines)
    write_result(folder / comparison_format.FILE_NAME, result)
