"""Formats of compare.json and items.jsonl, the results of a comparison.  compare.json has one
record per task and method; items.jsonl a line for every item, with its score by method.  Scores are
lm-eval's, recoveries ratios to the target's own score, speeds answer tokens per second of wall
time, prefill included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AllowInfNan

from fly.formats.base import Format, frame, paired_columns, spread
from fly.stats.records import Interval, Paired, Verdict

if TYPE_CHECKING:
    import pandas as pd

FILE_NAME, ITEMS_NAME = "compare.json", "items.jsonl"
# target: the reference of scores and texts; control: the target at another batch size; baseline:
# the fastest plain decoding found, where it is none of the methods asked for.
Role = Literal["target", "control", "baseline", "method"]
LEAST_SHARE = 0.005  # of a round: less is not told in words


class Score(Format):
    """One of lm-eval's metrics."""

    metric: str
    filter: str
    # As perplexities may be.
    value: Annotated[float, AllowInfNan(True)] | None
    stderr: Annotated[float, AllowInfNan(True)] | None
    higher_is_better: bool
    num_items: int | None  # that it is of; None where that is not recorded


class OtherScore(Score):
    """One that does not decide."""

    paired: Paired | None  # None for the target itself, and where the score is no mean over items


class Speed(Format):
    """Whole wall time of a method, and ratios over blocks that all methods decoded."""

    tokens_per_s: float | None
    seconds: float
    num_blocks: int  # timed ones
    vs_baseline: Interval | None  # the fastest plain decoding
    vs_target: Interval | None  # our engine without a draft, at the batch asked for
    vs_native: Interval | None


class Acceptance(Format):
    """What became of proposals."""

    mean_acceptance_length: float | None  # tau: tokens per round, bonus included
    acceptance_rate: float | None  # accepted by proposed tokens
    loose_share: float | None  # loose by emitted tokens
    rounds: int
    by_position: list[float]  # of rounds that proposed a token there, the share that kept it
    kept_per_round: list[int]  # rounds by their number of kept tokens, 0 to K


class Texts(Format):
    """Answers beside the target's own."""

    num_answers: int
    num_equal: int  # the same token ids
    num_ties: int  # first differ where the target's two best logits nearly tie
    mean_tokens: float
    mean_tokens_target: float
    num_loose_before: int  # differing answers with a loosened token at or before the difference
    mean_gap: float | None  # target's p(best) - p(second) at the first difference


class Cost(Format):
    """Why a method is slow or fast, in units of one plain step of the target in the same engine."""

    draft_forward: float | None  # a forward of the draft
    verification: float | None  # a pass of the target over a proposal
    overhead: float | None  # all else of a round
    ideal_speedup: float | None  # tau / (forwards * draft_forward + 1), as papers reckon
    predicted_speedup: float | None  # tau / the round's measured parts
    measured_speedup: float | None  # against the target in the same engine
    advice: str


class Parts(Format):
    """Of a phase of rounds, as shares of the whole rounds."""

    products: float  # of linear layers, but for those of the vocabulary
    attention: float
    vocabulary: float  # the logits' product, and all else that goes over the vocabulary
    compiled: float  # forwards that run as one compiled step, which does not tell its parts
    dispatch: float  # all else: Python, dispatch, small operations

    @property
    def total(self) -> float:
        """The phase's share."""
        return self.products + self.attention + self.vocabulary + self.compiled + self.dispatch


class Shares(Format):
    """What rounds are spent on, prefill apart; all parts of all phases make 1.  The phases' times
    are the run's own, their parts are of a few rounds that were watched after it."""

    target: Parts  # its forwards
    draft: Parts | None = None  # proposing; None where nothing was proposed
    engine: Parts  # accepting, committing and all else
    host_waits: float  # waiting for an accelerator: 0 on a CPU
    round_s: float  # seconds of a watched round of a full batch, unwatched
    floor_s: float | None  # of one that reads the weights, or multiplies, as fast as can be

    @property
    def by_floor(self) -> float | None:
        """A round by its floor."""
        return self.round_s / self.floor_s if self.floor_s else None

    @property
    def in_words(self) -> str:
        """A sentence."""
        target, engine, draft = self.target, self.engine, self.draft
        told = [
            (target.products, "the target's products"),
            (target.attention, "its attention"),
            (target.vocabulary + engine.vocabulary, "the vocabulary"),
            (target.compiled, "compiled forwards, not split"),
            (target.dispatch, "dispatch"),
            (engine.total - engine.vocabulary, "the engine"),
        ]
        parts = [f"{share:.0%} {name}" for share, name in told if share >= LEAST_SHARE]
        if draft is not None and draft.total:
            kind = max(type(draft).model_fields, key=lambda name: getattr(draft, name))
            most = f"{getattr(draft, kind) / draft.total:.0%} {kind}"
            parts.append(f"{draft.total:.0%} the draft (of that {most})")
        waits = f"{self.host_waits:.0%} host waits" if self.host_waits else "no host waits"
        text = f"Of a round, {', '.join(parts)}, {waits}"
        if self.by_floor is None or self.floor_s is None:
            return f"{text}."
        floor_ms = 1000 * self.floor_s
        digits = 1 if floor_ms < 10 else 0
        return f"{text}; {self.by_floor:.1f} times the floor of {floor_ms:.{digits}f} ms."


class MethodResult(Format):
    """One method on one task."""

    name: str
    role: Role
    batch_size: int
    settings: dict[str, Any]  # of the engine, or arguments of `generate`
    is_lossless: bool
    score: Score  # the one that decides
    other_scores: list[OtherScore]
    paired: Paired | None  # None for the target itself
    verdict: Verdict | None  # None where nothing was loosened, or scores are not per item
    speed: Speed
    acceptance: Acceptance | None  # None where nothing is proposed, or others decode
    texts: Texts
    seconds_by_phase: dict[str, float]
    peak_memory_bytes: int | None
    cost: Cost | None
    shares: Shares | None  # None where its engine cannot be watched


class TaskResult(Format):
    """All methods on one task."""

    task: str
    num_items: int
    metric: str | None  # the one that decides, as in "exact_match,strict-match"; None: none can
    is_binary: bool
    point: float  # how much of the score is called a point: 0.01, of BLEU, chrF and TER 1
    margin_points: float | None  # what the margin allows to lose, in points
    methods: list[MethodResult]


class Comparison(Format):
    """The whole file."""

    fly_compare: Literal[3] = 3
    environment: dict[str, Any]
    target: str
    draft: str | None
    config: dict[str, Any]
    tasks: list[TaskResult]
    margin: float | None  # share of the target's score to be kept; None where points are given
    margin_points: float | None  # points that may be lost; None where a share is given
    confidence: float  # of one-sided bounds
    baseline: str  # name of the fastest plain decoding
    control: str  # name of the target at another batch size
    batch_size: int
    block_size: int  # requests decoded by one method before the next takes its turn
    notes: list[str]

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, a row for every task and method.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([_row(task, method) for task in self.tasks for method in task.methods])


_OF_A_VERDICT = ("verdict", "p_safe", "p_not_safe", "items_needed")


def _row(task: TaskResult, method: MethodResult) -> dict[str, Any]:
    speed, texts = method.speed, method.texts
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
        **paired_columns(method.paired),
        **{name: getattr(method.verdict, name, None) for name in _OF_A_VERDICT},
        "tokens_per_s": speed.tokens_per_s,
        "seconds": speed.seconds,
        "num_blocks": speed.num_blocks,
        **spread("speedup", speed.vs_target),
        **spread("speedup_vs_baseline", speed.vs_baseline),
        **spread("speedup_vs_native", speed.vs_native),
        **_acceptance(method.acceptance),
        "num_answers": texts.num_answers,
        "num_equal": texts.num_equal,
        "num_ties": texts.num_ties,
        "mean_tokens": texts.mean_tokens,
        "peak_memory_bytes": method.peak_memory_bytes,
    }


def _acceptance(acceptance: Acceptance | None) -> dict[str, Any]:
    names = {"tau": "mean_acceptance_length"}
    names |= {name: name for name in ("acceptance_rate", "loose_share", "rounds")}
    return {column: getattr(acceptance, name, None) for column, name in names.items()}


class Divergence(Format):
    """Where an answer first differs from the target's own."""

    at: int  # token of the answer; its length where one goes on and the other ended
    token: str | None  # None where the answer had ended
    target_token: str | None
    gap: float | None  # target's p(best) - p(second) there
    is_tie: bool
    loose_at: int | None  # the last loosened token at or before it
    loose_token: str | None


class Item(Format):
    """A document of a task."""

    task: str
    doc_id: int | None
    doc_hash: str | None
    target_text: str | None = None  # the reference answer, as the task gives it
    scores: dict[str, float]  # by method
    divergences: dict[str, Divergence]  # by method; those that differ from the target
