"""Format of sweep.json, the result of `fly sweep`.  Every point of the grid, the frontier, the
recommendation and its verdict on items that the search did not see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fly.formats.base import Format, frame, paired_columns, spread
from fly.formats.comparison import Comparison
from fly.stats.records import Interval, Paired

if TYPE_CHECKING:
    import pandas as pd

FILE_NAME = "sweep.json"


class Point(Format):
    """One setting of the grid, on the items that it was tried on."""

    name: str
    settings: dict[str, Any]  # the grid's keys
    is_lossless: bool | None  # None in files of version 1, which lack it
    num_items: int
    stopped: str | None  # why it was not tried on all items of the search; None where it was
    score: float
    recovery: Interval
    recovery_lower: float | None  # one-sided 95 % bound; None where the margin is in points
    points_lower: float | None  # the same of the difference in points; None elsewhere
    paired: Paired
    speedup: Interval  # against the target in the same engine, from rounds and measured costs
    mean_acceptance_length: float | None
    acceptance_rate: float | None
    loose_share: float | None
    rounds: int
    by_position: list[float]  # of rounds that proposed a token there, the share that kept it
    mean_tokens: float  # of an answer
    mean_tokens_target: float  # of the target's to the same items
    num_equal: int  # answers with the target's own token ids
    num_answers: int
    on_frontier: bool


class Saving(Format):
    """What the search did not have to do."""

    rounds_of_all_points: int  # of every point on every item it was tried on, one by one
    rounds_decoded: int
    rounds_if_none_had_stopped: int  # estimated from those tried
    share_saved: float


class Sweep(Format):
    """The whole file."""

    fly_sweep: Literal[4] = 4
    environment: dict[str, Any]
    target: str
    draft: str | None
    config: dict[str, Any]
    tasks: list[str]
    grid: dict[str, list[Any]]
    margin: float | None
    margin_points: float | None
    num_search_items: int
    num_heldout_items: int
    points: list[Point]
    saving: Saving
    recommended: str | None  # a point's name
    recommended_config: dict[str, Any] | None
    heldout: Comparison | None  # target, native and the recommended point on unseen items
    conclusion: str

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, a row for every point.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([_row(point, self) for point in self.points])


def _row(point: Point, sweep: Sweep) -> dict[str, Any]:
    return {
        "point": point.name,
        **point.settings,
        "is_lossless": point.is_lossless,
        "num_items": point.num_items,
        "score": point.score,
        **paired_columns(point.paired),
        "recovery_lower": point.recovery_lower,
        "points_lower": point.points_lower,
        **spread("speedup", point.speedup),
        "tau": point.mean_acceptance_length,
        "acceptance_rate": point.acceptance_rate,
        "loose_share": point.loose_share,
        "rounds": point.rounds,
        "stopped": point.stopped,
        "on_frontier": point.on_frontier,
        "recommended": point.name == sweep.recommended,
    }
