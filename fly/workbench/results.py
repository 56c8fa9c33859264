"""Records of compare.json, from answers, scores and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from fly.engine import Statistics
from fly.formats.answers import Answer, Block, kept_by_position
from fly.formats.comparison import (
    Acceptance,
    Cost,
    Divergence,
    Item,
    MethodResult,
    OtherScore,
    Score,
    Speed,
    TaskResult,
    Texts,
)
from fly.stats.judged import Judged
from fly.stats.margins import SHARE, Margin, Share
from fly.stats.records import POINT, Interval, Paired, Verdict
from fly.stats.speed import speed_ratio
from fly.workbench.columns import MetricColumn
from fly.workbench.costs import explain
from fly.workbench.methods import NATIVE, Method
from fly.workbench.metrics import Metric
from fly.workbench.scoring import Doc, Scorer, Scores
from fly.workbench.shares import Look

AnswerKey = tuple[Doc, int, int]  # document, index of the request, repeat
PHASES = ("prefill", "draft", "target", "acceptance", "rest")


@dataclass(frozen=True)
class Decoded:
    """Results of one method on one task."""

    method: Method
    answers: Mapping[AnswerKey, Answer]
    scores: Mapping[Doc, Scores]
    blocks: Mapping[int, Block]  # by number; those timed
    divergences: Mapping[Doc, Divergence]  # of documents whose answer differs from the target's
    look: Look | None = None  # at some of its rounds

    @property
    def statistics(self) -> Statistics:
        """Pooled over its answers."""
        return sum((statistics_of(answer) for answer in self.answers.values()), Statistics())


@dataclass(frozen=True)
class Compared:
    """One task, all methods; the target's are the first."""

    task: str
    scorer: Scorer
    docs: Sequence[Doc]  # that were asked, which may be a part of the task's
    deciding: Metric  # what was fixed before the run
    columns: Sequence[MetricColumn]  # by metric
    decoded: Sequence[Decoded]
    has_phases: bool  # whether seconds by phase are wall times

    @property
    def target(self) -> Decoded:
        """The reference."""
        return self.decoded[0]

    @property
    def column(self) -> MetricColumn | None:
        """The metric that decides; None where no document has it."""
        return next((each for each in self.columns if each.metric == self.deciding), None)

    @property
    def others(self) -> list[MetricColumn]:
        """The other metrics."""
        return [each for each in self.columns if each.metric != self.deciding]

    def paired(self, decoded: Decoded) -> Judged | None:
        """A method's scores beside the target's; None where there is nothing to compare."""
        return self.column.pair(decoded.method.name) if self.column else None

    def items(self) -> list[Item]:
        """A record for every document."""
        column = self.column
        scores = {
            each.method.name: column.items(each.method.name) if column else {}
            for each in self.decoded
        }
        return [
            Item(
                task=self.task,
                doc_id=doc,
                doc_hash=_doc_hash(self.target, doc),
                target_text=self.scorer.reference(doc),
                scores={name: own[doc] for name, own in scores.items() if doc in own},
                divergences={
                    each.method.name: each.divergences[doc]
                    for each in self.decoded
                    if doc in each.divergences
                },
            )
            for doc in self.docs
        ]


def _doc_hash(decoded: Decoded, doc: Doc) -> str | None:
    return next(answer.doc_hash for key, answer in decoded.answers.items() if key[0] == doc)


def task_result(
    compared: Compared,
    baseline: str,
    verdicts: Mapping[str, Verdict],
    margin: Margin,
) -> TaskResult:
    """One task's record.

    Args:
        compared: its answers and scores.
        baseline: name of the fastest plain decoding.
        verdicts: by the method's name, of those that were judged.
        margin: what has to be kept.
    """
    column, target = compared.column, compared.target.method.name
    loss, point = None, column.measure.point if column else POINT
    score = column.score(target) if column else None
    if score is not None and score.value is not None:
        is_better = score.higher_is_better
        loss = margin.loss_of(score.value, higher_is_better=is_better, point=point)
    values = column.items(target).values() if column else ()
    return TaskResult(
        task=compared.task,
        num_items=len(compared.docs),
        metric=column.name if column else None,
        is_binary=bool(values) and all(value in (0, 1) for value in values),
        point=point,
        margin_points=None if loss is None else loss / point,
        methods=[
            _method_result(compared, each, baseline, verdicts, margin) for each in compared.decoded
        ],
    )


def _method_result(
    compared: Compared,
    decoded: Decoded,
    baseline: str,
    verdicts: Mapping[str, Verdict],
    margin: Margin,
) -> MethodResult:
    by_name = {each.method.name: each for each in compared.decoded}
    speed = Speed(
        **_pace(decoded),
        vs_baseline=_ratio(decoded, by_name.get(baseline)),
        vs_target=_ratio(decoded, compared.target),
        vs_native=_ratio(decoded, by_name.get(NATIVE)),
    )
    accepted = acceptance(decoded)
    pooled = decoded.statistics
    peaks = [block.peak_memory_bytes or 0 for block in decoded.blocks.values()]
    method, texts = decoded.method, texts_beside(compared.target, decoded)
    return MethodResult(
        name=method.name,
        role=method.role,
        batch_size=method.batch_size,
        settings=method.settings,
        is_lossless=method.is_lossless,
        score=compared.column.score(method.name) if compared.column else _no_score(compared),
        other_scores=[_other_score(each, method.name, texts, margin) for each in compared.others],
        paired=_shown_beside(compared.paired(decoded), texts, margin),
        verdict=verdicts.get(method.name),
        speed=speed,
        acceptance=accepted,
        texts=texts,
        seconds_by_phase={phase: getattr(pooled, f"seconds_{phase}") for phase in PHASES},
        peak_memory_bytes=max(peaks, default=0) or None,
        cost=_cost(compared, decoded, accepted),
        shares=decoded.look.shares(pooled) if decoded.look else None,
    )


def _no_score(compared: Compared) -> Score:
    """Of a metric that no document has."""
    return compared.scorer.aggregate([], compared.deciding)


def _other_score(column: MetricColumn, method: str, texts: Texts, margin: Margin) -> OtherScore:
    # A function of all items is drawn again where it decides: that takes its time.
    paired = column.pair(method) if column.measure.is_mean else None
    score = column.score(method).model_dump()
    return OtherScore(**score, paired=_shown_beside(paired, texts, margin))


def _shown_beside(paired: Judged | None, texts: Texts, margin: Margin) -> Paired | None:
    return None if paired is None else shown(paired, texts.num_equal, texts.num_answers, margin)


def shown(paired: Judged, num_equal: int, num_texts: int, margin: Margin) -> Paired:
    """The record, leaving out intervals without meaning: around equal texts, and of the ratio to a
    score that rests on a few items.
    """
    record = paired.to_paired()
    recovery, difference = record.recovery, record.difference
    if num_equal == num_texts:
        same = f"all {num_texts:,} texts identical"
        recovery, difference = (_without_ends(each, same) for each in (recovery, difference))
    elif Share(margin.share or SHARE).why_unsupported(paired) and paired.weight_told:
        told = paired.weight_told
        recovery = _without_ends(recovery, f"{told[:1].lower()}{told[1:]}: too few for a ratio")
    return replace(record, recovery=recovery, difference=difference)


def _without_ends(interval: Interval, why: str) -> Interval:
    return Interval(estimate=interval.estimate, low=None, high=None, method=why)


def _cost(compared: Compared, decoded: Decoded, accepted: Acceptance | None) -> Cost | None:
    """Beside plain decoding in the same engine and batch size; None where that did not run."""
    if accepted is None or not compared.has_phases:
        return None
    size = decoded.method.batch_size
    plain = next(
        (
            each
            for each in compared.decoded
            if each.method.is_plain and each.method.batch_size == size
        ),
        None,
    )
    if plain is None:
        return None
    measured = _ratio(decoded, plain)
    return explain(
        decoded.method,
        decoded.statistics,
        plain.statistics,
        accepted,
        measured.estimate if measured else None,
    )


def _pace(decoded: Decoded) -> dict[str, Any]:
    seconds = sum(block.seconds for block in decoded.blocks.values())
    tokens = sum(block.num_tokens for block in decoded.blocks.values())
    return {
        "tokens_per_s": tokens / seconds if seconds else None,
        "seconds": seconds,
        "num_blocks": len(decoded.blocks),
    }


def _ratio(decoded: Decoded, other: Decoded | None) -> Any:
    """Tokens/s by another method's, over the blocks that both have; None against itself."""
    if other is None or other is decoded:
        return None
    common = sorted(decoded.blocks.keys() & other.blocks.keys())
    if not common:
        return None
    columns: list[list[float]] = []
    for each in (decoded, other):
        columns.append([each.blocks[number].num_tokens for number in common])
        columns.append([each.blocks[number].seconds for number in common])
    return speed_ratio(*columns)


def acceptance(decoded: Decoded) -> Acceptance | None:
    """What became of proposals; None where nothing was proposed."""
    lens = [pair for answer in decoded.answers.values() for pair in answer.round_lens]
    if not lens:
        return None
    metrics = decoded.statistics.metrics()
    kept = Counter(number for _, number in lens)
    return Acceptance(
        mean_acceptance_length=metrics["mean_acceptance_length"],
        acceptance_rate=metrics["acceptance_rate"],
        loose_share=metrics["loose_share"],
        rounds=len(lens),
        by_position=kept_by_position(decoded.answers.values()),
        kept_per_round=[kept[number] for number in range(max(kept) + 1)],
    )


def texts_beside(target: Decoded, decoded: Decoded) -> Texts:
    """How a method's answers differ from the target's."""
    pairs = [(target.answers[key], answer) for key, answer in decoded.answers.items()]
    gaps = [each.gap for each in decoded.divergences.values() if each.gap is not None]
    count = len(pairs)
    return Texts(
        num_answers=count,
        num_equal=sum(own.token_ids == other.token_ids for own, other in pairs),
        num_ties=sum(each.is_tie for each in decoded.divergences.values()),
        mean_tokens=sum(len(other.token_ids) for _, other in pairs) / count,
        mean_tokens_target=sum(len(own.token_ids) for own, _ in pairs) / count,
        num_loose_before=sum(each.loose_at is not None for each in decoded.divergences.values()),
        mean_gap=sum(gaps) / len(gaps) if gaps else None,
    )


def statistics_of(answer: Answer) -> Statistics:
    """The counters of a line of answers.jsonl."""
    known = {entry.name for entry in fields(Statistics)}
    counts = {name: value for name, value in answer.statistics.items() if name in known}
    return Statistics(**counts)  # type: ignore[arg-type]
