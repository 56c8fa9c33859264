"""Successive halving of settings, the frontier and the recommendation.  Decisions about numbers
only; nothing is decoded or estimated here.  Source of the schedule: Jamieson & Talwalkar, arXiv
1502.07943.  Differs: intervals decide first, and halving takes only what they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RECOVERY = "recovery"
SHARES = (0.25, 0.5, 1.0)  # of the search's items, by rung


@dataclass(frozen=True)
class Standing:
    """A point after some items.  Recovery is its score by the target's, or where the margin is in
    points their difference in points; bounds are one-sided, and None where the items are too few.
    """

    name: str
    speedup: float  # against the target in the same engine
    recovery: float | None
    lower: float | None
    upper: float | None
    is_reference: bool = False  # loosens nothing; is never stopped

    def clears(self, margin: float) -> bool:
        """Whether its recovery is known to be at least the margin."""
        return self.lower is not None and self.lower >= margin

    @property
    def hope(self) -> float:
        """The best recovery that is still believable."""
        return math.inf if self.upper is None else self.upper

    @property
    def assurance(self) -> float:
        """The recovery that is certain."""
        return -math.inf if self.lower is None else self.lower


def rungs(num_items: int, shares: Sequence[float] = SHARES) -> list[int]:
    """Items that a point has been tried on at the end of each rung; increasing, the last is all."""
    counts = {min(num_items, math.ceil(share * num_items)) for share in shares} | {num_items}
    return sorted(counts - {0})


def stops(standings: Sequence[Standing], margin: float, quantity: str = RECOVERY) -> dict[str, str]:
    """The points that get no more items, with the reason.

    A point stops that is not safe any more (its upper bound is below the margin) or slower than one
    whose lower bound clears the margin.  If more than half of them would still go on, the better
    half does: by Pareto rank of speedup and upper bound, ties by speed; the likeliest to be safe is
    among them.  References always go on, and so does the last point.  `quantity` is what recovery
    is called.
    """
    tried = [point for point in standings if not point.is_reference]
    reasons = _hopeless(standings, tried, margin, quantity)
    going = [point for point in tried if point.name not in reasons]
    most = math.ceil(len(tried) / 2)
    if len(going) > most:
        kept = _better(going, most)
        reasons |= {
            point.name: f"not in the better half: {most} of {len(tried)} went on, by speedup and "
            f"upper bound of {quantity}"
            for point in going
            if point not in kept
        }
    if len(reasons) == len(standings) and standings:
        best = max(standings, key=lambda point: (point.hope, point.speedup))
        del reasons[best.name]
    return reasons


def _hopeless(
    standings: Sequence[Standing], tried: Sequence[Standing], margin: float, quantity: str
) -> dict[str, str]:
    """Points that no further item is likely to save."""
    safe = [point for point in standings if point.clears(margin)]
    fastest = max(safe, key=lambda point: point.speedup, default=None)
    reasons = {}
    for point in tried:
        if point.hope < margin:
            reasons[point.name] = (
                f"not safe: the upper bound of its {quantity}, {point.hope:.4f}, is below the "
                f"margin of {margin:g}"
            )
        elif fastest is not None and point.speedup < fastest.speedup:
            reasons[point.name] = (
                f"slower: {point.speedup:.3f}x, while {fastest.name} is safe at "
                f"{fastest.speedup:.3f}x"
            )
    return reasons


def _better(points: Sequence[Standing], count: int) -> list[Standing]:
    """The `count` best.  The fastest points tend to be the riskiest, and all may lie on one
    frontier: without the likeliest to be safe nothing might be left to recommend.
    """
    likeliest = max(points, key=lambda point: (point.assurance, point.hope, point.speedup))
    rank = ranks([(point.speedup, point.hope) for point in points])
    order = sorted(range(len(points)), key=lambda at: (rank[at], -points[at].speedup))
    ordered = [points[at] for at in order if points[at] is not likeliest]
    return [likeliest, *ordered[: count - 1]]


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """At least as good in both, better in one."""
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def ranks(pairs: Sequence[tuple[float, float]]) -> list[int]:
    """Pareto ranks, larger is better: 0 on the frontier, 1 on that of the others, and so on."""
    found = [-1] * len(pairs)
    left = set(range(len(pairs)))
    rank = 0
    while left:
        front = {at for at in left if not any(dominates(pairs[other], pairs[at]) for other in left)}
        for at in front:
            found[at] = rank
        left -= front
        rank += 1
    return found


def frontier(standings: Sequence[Standing]) -> list[str]:
    """Names of the points that no other beats in both speedup and recovery, fastest first.  Those
    whose recovery is unknown are left out.
    """
    known = [
        (point.name, (point.speedup, point.recovery))
        for point in standings
        if point.recovery is not None
    ]
    front = [
        (pair, name)
        for name, pair in known
        if not any(dominates(other, pair) for _, other in known)
    ]
    return [name for _, name in sorted(front, key=lambda entry: entry[0], reverse=True)]


@dataclass(frozen=True)
class Recommendation:
    """The setting to use."""

    name: str | None  # a point's; None where the items support none
    items_needed: int | None  # about so many might support one; None where one is, or none can
    conclusion: str


def recommend(
    standings: Sequence[Standing],
    margin: float,
    items_needed: Callable[[Standing], int | None],
    quantity: str = RECOVERY,
) -> Recommendation:
    """The fastest point whose lower bound on recovery clears the margin.

    Args:
        standings: the points on all items of the search.
        margin: the least recovery that is accepted.
        items_needed: items that would let a point's lower bound clear the margin if it went on as
            it did; None if no number would.
        quantity: what recovery is called.
    """
    safe = [point for point in standings if point.clears(margin)]
    if safe:
        best = max(safe, key=lambda point: (point.speedup, point.recovery or 0.0))
        return Recommendation(
            best.name,
            None,
            f"{best.name} is the fastest setting whose {quantity} is at least {margin:g} "
            f"(lower bound {best.assurance:.4f}), at {best.speedup:.3f}x",
        )
    needed = {point.name: items_needed(point) for point in standings}
    counted = {name: count for name, count in needed.items() if count is not None}
    if not counted:
        return Recommendation(
            None, None, f"no setting tried has a {quantity} of at least {margin:g} on these items"
        )
    name = min(counted, key=lambda point: counted[point])
    return Recommendation(
        None,
        counted[name],
        f"these items support no setting at a margin of {margin:g}: needs about {counted[name]} "
        f"items (for {name})",
    )
