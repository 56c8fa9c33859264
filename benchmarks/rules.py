"""Settings at which every rule loosens as much as FLy: `python benchmarks/rules.py`.

The embedded pair, greedily, on problems that the comparison does not use.  Each rule's own setting
is bisected until its loose share is FLy's at its defaults; what comes out are the methods of
`fly compare` that ask who loses fewer items at the same share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blocks import Pair, engine, parsed, parser, problems, save

SEED = 514
K = 15
STEPS = 10  # of bisection at most
NEAR = 0.03  # of the wanted share is near enough


@dataclass(frozen=True)
class Dial:
    """What makes a rule looser."""

    strict: float  # the dial's end where next to nothing is loosened
    loose: float  # the other end
    settings: Callable[[float], Mapping[str, object]]


DIALS = {  # `cascade` and `lenience` are `margin` here: alike.py
    "margin": Dial(0.0, 6.0, lambda value: {"max_gap": value}),
    "typical": Dial(1.0, 1e-3, lambda value: {"epsilon": value, "delta": value**0.5}),
    "relaxed_top_n": Dial(0.0, 1.0, lambda value: {"top_n": 10, "delta": value}),
    "mars": Dial(1.0, 0.01, lambda value: {"threshold": value}),
    "divergence": Dial(0.0, 0.69, lambda value: {"divergence": "js", "threshold": value}),
    "ensemble": Dial(1.0, 0.02, lambda value: {"weight": value}),
}


class Shares:
    """Loose shares on the same prompts."""

    def __init__(self, pair: Pair, count: int, batch_size: int) -> None:
        """Draw the prompts."""
        self.pair = pair
        self._batch_size = batch_size
        self._prompts = [pair.encode(problem.prompt) for problem in problems(count, SEED)]

    def of(self, rule: str, settings: Mapping[str, object]) -> float:
        """Loose over emitted tokens."""
        timed = engine(
            self.pair,
            self._batch_size,
            acceptance=rule,
            acceptance_settings=dict(settings),
            spd_k=K,
        )(self._prompts)
        return timed.statistics.metrics()["loose_share"] or 0.0

    def matched(self, rule: str, wanted: float) -> dict[str, object]:
        """The rule's settings whose share is nearest to `wanted`, of those that bisection tries."""
        dial = DIALS[rule]
        strict, loose = dial.strict, dial.loose
        tried: dict[float, float] = {loose: self.of(rule, dial.settings(loose))}
        for _ in range(STEPS):
            if min(abs(share - wanted) for share in tried.values()) <= NEAR * wanted:
                break
            middle = (strict + loose) / 2
            tried[middle] = share = self.of(rule, dial.settings(middle))
            strict, loose = (middle, loose) if share < wanted else (strict, middle)
        best = min(tried, key=lambda value: abs(tried[value] - wanted))
        settings = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in dial.settings(best).items()
        }
        spelled = ",".join(f"{name}={value}" for name, value in settings.items())
        return {
            "method": f"{rule}:{spelled}",
            "settings": settings,
            "loose_share": tried[best],
            "tried": sorted(tried.items()),
        }


def main() -> None:
    """Match, print and save."""
    options = parser(__doc__, "rules_matched.json")
    options.add_argument("--prompts", type=int, default=64)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--rules", nargs="+", default=list(DIALS), choices=list(DIALS))
    arguments = parsed(options)
    shares = Shares(Pair(), arguments.prompts, arguments.batch_size)
    wanted = shares.of("fly", {})
    print(f"fly: {wanted:.4f}", flush=True)
    found = {}
    for rule in arguments.rules:
        found[rule] = shares.matched(rule, wanted)
        print(f"{found[rule]['method']}: {found[rule]['loose_share']:.4f}", flush=True)
    save(arguments.output, {"fly_loose_share": wanted, "spd_k": K, "rules": found})


if __name__ == "__main__":
    main()
