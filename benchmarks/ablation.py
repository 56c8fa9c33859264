"""The README's plot of a sweep: speedup and recovery by window, a line per gate, at one K.
`python benchmarks/ablation.py` reads benchmarks/results/sweep.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from fly.formats.reading import read_sweep
from fly.formats.sweep import Point, Sweep

SIZE = (8.4, 3.2)  # inches
DPI = 110


def lines(sweep: Sweep, k: int) -> dict[float, list[Point]]:
    """The points of one K by gate, each list in the order of the windows."""
    found: dict[float, list[Point]] = {}
    for point in sweep.points:
        if point.settings["spd_k"] == k:
            found.setdefault(float(point.settings["entropy_thre"]), []).append(point)
    return {
        gate: sorted(own, key=lambda point: int(point.settings["win_len"]))
        for gate, own in sorted(found.items())
    }


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", type=Path, default=Path("benchmarks/results/sweep.json"))
    parser.add_argument("--k", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("docs/images/ablation.png"))
    arguments = parser.parse_args()
    sweep = read_sweep(arguments.sweep)
    figure = Figure(figsize=SIZE, layout="constrained")
    panels = figure.subplots(1, 2)
    for gate, points in lines(sweep, arguments.k).items():
        windows = [point.settings["win_len"] for point in points]
        name = "no gate" if gate == 0 else f"{gate:g} nats"
        for axes, shown in zip(panels, ("speedup", "recovery"), strict=True):
            intervals = [getattr(point, shown) for point in points]
            middle = [interval.estimate for interval in intervals]
            below = [interval.estimate - interval.low for interval in intervals]
            above = [interval.high - interval.estimate for interval in intervals]
            axes.errorbar(windows, middle, [below, above], marker="o", capsize=2, label=name)
    for axes, title in zip(
        panels, ("speedup over the target", "recovery of its score"), strict=True
    ):
        axes.set_xlabel("W")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    panels[1].axhline(sweep.margin, color="gray", linestyle="--", linewidth=1)
    panels[1].legend(title="gate", fontsize=8)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=DPI)


if __name__ == "__main__":
    main()
