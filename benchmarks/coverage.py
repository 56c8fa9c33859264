"""How often the intervals of a comparison hold the truth, and how often its verdicts are wrong at
the margin, on simulated paired scores.  Writes benchmarks/results/coverage.json.

    python benchmarks/coverage.py
"""

from __future__ import annotations

import argparse
import bisect
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from fly.stats import binary, exact, graded
from fly.stats.bootstrap import redraw
from fly.stats.graded import Clusters
from fly.stats.records import Interval
from fly.stats.speed import speed_ratio

MARGIN = 0.97
LEVEL = 0.05  # of one-sided tests
RESAMPLES = 1_000  # a tenth of a comparison's: 1,000 data sets share them
RESULT = Path(__file__).parent / "results" / "coverage.json"


@dataclass(frozen=True)
class Rates:
    """Shares of simulated comparisons."""

    kind: str
    items: int
    target: float  # mean score
    discordant: float
    recovery: float
    holds_difference: float  # two-sided 95 % intervals
    holds_recovery: float
    false_safe: float | None  # where the recovery is the margin; None at others
    false_not_safe: float | None


def holds(interval: Interval, value: float) -> bool:
    """Whether the interval exists and holds the value."""
    if interval.low is None or interval.high is None:
        return False
    return interval.low <= value <= interval.high


def binary_rates(
    items: int, target: float, discordant: float, recovery: float, runs: int, seed: int = 0
) -> Rates:
    """Independent items, 0 or 1; the shares lost and gained differ by what the recovery says."""
    loss = (1 - recovery) * target
    lost, gained = (discordant + loss) / 2, (discordant - loss) / 2
    shares = [target - lost, lost, gained, 1 - target - gained]
    tables, index = np.unique(
        np.random.default_rng(seed).multinomial(items, shares, size=runs),
        axis=0,
        return_inverse=True,
    )
    both, ours, theirs, _ = tables.T
    either = both + ours + theirs
    low, high = binary.difference_bounds(ours, theirs, items)
    holds_difference = (low <= -loss) & (-loss <= high)
    low, high = binary.ratio_bounds(ours, theirs, either)
    holds_recovery = (low <= recovery) & (recovery <= high)
    means = [float(rate[index.ravel()].mean()) for rate in (holds_difference, holds_recovery)]
    wrong: list[float | None] = [None, None]
    if recovery == MARGIN:
        counts = [binary.PairCounts(*(int(cell) for cell in row)) for row in tables]
        # A score below 0.5 is no reason to reject anything: spared.
        score = binary.ratio_score(ours, theirs, either, MARGIN)
        for side, test in enumerate((exact.p_ratio_at_most, exact.p_ratio_at_least)):
            seen = score if side == 0 else -score
            rejects = [
                at > 0.5 and test(one, MARGIN) < LEVEL for one, at in zip(counts, seen, strict=True)
            ]
            wrong[side] = float(np.array(rejects)[index.ravel()].mean())
    return Rates("0/1", items, target, discordant, recovery, *means, *wrong)


def largest_size(num_either: int, ratio: float) -> float:
    """The greatest chance, without simulation, that the exact test rejects "recovery = ratio"
    wrongly, over all shares of lost items, given how many items either solved.
    """
    lost = np.arange(num_either + 1)

    def rejects(ours: int, theirs: int) -> bool:
        return bool(exact.p_at_most(ours, theirs, exact.of_ratio(num_either, ratio)) < LEVEL)

    least = [
        bisect.bisect_left(range(num_either - ours + 1), True, key=partial(rejects, ours))
        for ours in lost.tolist()
    ]
    low, high = max(0.0, 1 - ratio), 1 / (1 + ratio)
    shares = low + (high - low) * np.linspace(0, 1, 400) ** 2
    gained = np.clip(1 - (1 - shares) / ratio, 0, None)
    chances = stats.binom.pmf(lost[:, None], num_either, shares) * stats.binom.sf(
        np.array(least)[:, None] - 1,
        (num_either - lost)[:, None],
        np.clip(gained / (1 - shares), 0, 1),
    )
    return float(chances.sum(axis=0).max())


def graded_data(
    kind: str, items: int, discordant: float, recovery: float, generator: np.random.Generator
) -> Clusters:
    """One comparison.  "lost whole", "lost in part": Beta(2, 2) scores, of which some fall and some
    are drawn anew; "repeats": four 0/1 answers per document of its own difficulty.
    """
    if kind == "repeats":
        easy = generator.beta(4.5, 0.5, size=(items, 1))  # mean 0.9
        solved = generator.random((items, 4)) < easy
        draw = generator.random((items, 4))
        kept, found = draw > 1 - recovery + discordant / 2, draw < discordant / 2 * 9
        drawn = np.where(solved, kept, found)
        return Clusters(solved.sum(1) * 1.0, drawn.sum(1) * 1.0, np.full(items, 4.0))
    own = generator.beta(2, 2, size=items)
    other, draw = own.copy(), generator.random(items)
    falls = draw < (1 - recovery) * (1 if kind == "lost whole" else 2)
    other[falls] *= 0 if kind == "lost whole" else generator.random(int(falls.sum()))
    anew = draw > 1 - discordant
    other[anew] = generator.beta(2, 2, size=int(anew.sum()))
    # What fell before it was drawn anew is no loss: the shares must not meet.
    assert not np.any(falls & anew)
    return Clusters(own, other, np.ones(items))


def graded_rates(
    kind: str, items: int, discordant: float, recovery: float, runs: int, seed: int = 0
) -> Rates:
    """Of the clustered bootstrap."""
    generator = np.random.default_rng(seed)
    data = [graded_data(kind, items, discordant, recovery, generator) for _ in range(runs)]
    target = 0.9 if kind == "repeats" else 0.5
    counts = np.zeros(4)
    for sides in (data, [one.exchanged for one in data]):
        redrawn = redraw(np.concatenate([one.sums for one in sides], axis=1), resamples=RESAMPLES)
        for place, one in enumerate(sides):
            one.__dict__["redrawn"] = redrawn[:, 3 * place : 3 * place + 3]  # the cached property
    for one in data:
        difference, ratio = graded.difference_interval(one), graded.ratio_interval(one)
        counts += (
            holds(difference, (recovery - 1) * target),
            holds(ratio, recovery),
            one.p_ratio_at_most(recovery) < LEVEL,
            one.p_ratio_at_least(recovery) < LEVEL,
        )
    rates = (counts / runs).tolist()
    if recovery != MARGIN:
        rates[2:] = [None, None]
    return Rates(kind, items, target, discordant, recovery, *rates)


def speed_rate(blocks: int, noise: float, runs: int, seed: int = 0) -> float:
    """How often the interval of a speed ratio holds 2, with log-normal noise of the seconds."""
    generator = np.random.default_rng(seed)
    num_held = 0
    for _ in range(runs):
        tokens = generator.uniform(800, 1200, blocks) * np.exp(
            generator.normal(0, 0.05, (2, blocks))
        )
        seconds = tokens / [[200], [100]] * np.exp(generator.normal(0, noise, (2, blocks)))
        ratio = speed_ratio(tokens[0], seconds[0], tokens[1], seconds[1])
        num_held += holds(ratio, 2)
    return num_held / runs


def binary_settings() -> Iterator[tuple[int, float, float, float]]:
    """Items, target, discordant share, recovery: those that can be."""
    for items in (50, 200, 750):
        for target in (0.5, 0.9, 0.97):
            for discordant in (0.01, 0.03, 0.06, 0.15):
                for recovery in (MARGIN, 1.0):
                    loss = (1 - recovery) * target
                    gained = (discordant - loss) / 2
                    if 0 <= gained <= 1 - target:
                        yield items, target, discordant, recovery


def graded_settings() -> Iterator[tuple[str, int, float, float]]:
    """Kind, documents, discordant share, recovery."""
    for kind in ("lost whole", "lost in part", "repeats"):
        for items in (50, 120, 400):
            for discordant in (0.02, 0.10):
                for recovery in (MARGIN, 1.0):
                    yield kind, items, discordant, recovery


def main() -> None:
    """Simulate all settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulations per setting")
    runs = parser.parse_args().runs
    from fly.workbench.environment import describe

    rows: list[Rates] = []
    for setting in binary_settings():
        rows.append(binary_rates(*setting, runs, seed=len(rows)))
        print(rows[-1], flush=True)
    for one in graded_settings():
        rows.append(graded_rates(*one, runs, seed=len(rows)))
        print(rows[-1], flush=True)
    speeds = [
        {"blocks": blocks, "noise": noise, "holds": speed_rate(blocks, noise, runs)}
        for blocks in (5, 8, 10, 15)
        for noise in (0.02, 0.15)
    ]
    sizes = [
        {
            "solved_by_either": count,
            "false_safe": largest_size(count, MARGIN),
            "false_not_safe": largest_size(count, 1 / MARGIN),
        }
        for count in (20, 60, 99, 110, 160, 300)
    ]
    summary = {
        "settings": len(rows),
        "least_coverage_difference": min(row.holds_difference for row in rows),
        "least_coverage_recovery": min(row.holds_recovery for row in rows),
        "least_coverage_speed": min(speed["holds"] for speed in speeds),
        "most_false_safe": max(row.false_safe or 0.0 for row in rows),
        "most_false_not_safe": max(row.false_not_safe or 0.0 for row in rows),
        "largest_size_without_simulation": max(
            max(size["false_safe"], size["false_not_safe"]) for size in sizes
        ),
    }
    print(json.dumps(summary, indent=1))
    record = {
        **describe(),
        "runs": runs,
        "summary": summary,
        "scores": [asdict(row) for row in rows],
        "speeds": speeds,
        "sizes_without_simulation": sizes,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
