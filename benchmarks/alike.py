"""Rules that are one rule: `python benchmarks/alike.py`.

Greedily, `margin` (as a gap or as a ratio), `cascade` and `lenience` keep a token whose probability
is at least r times the largest.  The embedded pair decodes the same problems with each at the same
r, and `cascade` and `margin` also at T = 0.8 with the same seeds: all answers are the same ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from blocks import Answers, Pair, engine, parsed, parser, problems, save

SEED = 615
K, BATCH = 15, 32
RATIOS = (0.5, 0.8, 0.917)  # r: defaults of `lenience` and `cascade`, and FLy's share of loosening
TEMPERATURES = (0.0, 0.8)


def spellings(ratio: float, temperature: float) -> dict[str, dict[str, float]]:
    """Rules and their settings that should be the same."""
    same: dict[str, dict[str, float]] = {
        "margin": {"ratio": ratio},
        "cascade": {"alpha": 1 - ratio},
    }
    if temperature:  # there the gap is of raw logits, and lenience goes by draws
        return same
    gap = {"margin, as a gap": {"max_gap": -math.log(ratio)}}
    return same | gap | {"lenience": {"lenience": ratio}}


def differing(answers: Mapping[str, Answers]) -> dict[str, int]:
    """Answers of each that are not the first's."""
    first = next(iter(answers.values()))
    return {
        name: sum(one != other for one, other in zip(own, first, strict=True))
        for name, own in answers.items()
    }


def compared(
    pair: Pair, prompts: Sequence[list[int]], ratio: float, temperature: float
) -> dict[str, object]:
    """All spellings over the same prompts."""
    answers, loose = {}, {}
    for name, settings in spellings(ratio, temperature).items():
        rule = name.partition(",")[0]
        method = engine(
            pair,
            BATCH,
            temperature=temperature,
            acceptance=rule,
            acceptance_settings=settings,
            spd_k=K,
        )
        timed = method(prompts)
        answers[name], loose[name] = timed.answers, timed.statistics.loose
    tokens = sum(map(len, next(iter(answers.values()))))
    return {"tokens": tokens, "loose": loose, "differing_answers": differing(answers)}


def main() -> None:
    """Decode, print and save."""
    options = parser(__doc__, "alike.json")
    options.add_argument("--prompts", type=int, default=128)
    arguments = parsed(options)
    pair = Pair()
    prompts = [pair.encode(problem.prompt) for problem in problems(arguments.prompts, SEED)]
    found = {}
    for temperature in TEMPERATURES:
        for ratio in RATIOS:
            name = f"T = {temperature}, r = {ratio}"
            found[name] = compared(pair, prompts, ratio, temperature)
            print(name, found[name], flush=True)
    save(arguments.output, {"prompts": len(prompts), "spd_k": K, "found": found})


if __name__ == "__main__":
    main()
