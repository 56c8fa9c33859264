"""What a lookup costs by the text's length: `python benchmarks/lookup.py`.

Microseconds per token for 1,000 tokens behind 100, 1,000, 10,000 and 100,000 others, each appended
and looked up for 8 tokens, as drafting does: the median of several runs.  The texts are random over
500 tokens, with every tenth stretch copied from before.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from blocks import parsed, parser, save

from fly.drafting.guesses import NgramText, RecentText, SuffixText, Text

LENGTHS = (100, 1_000, 10_000, 100_000)
MEASURED = 1_000  # tokens
COUNT = 8  # tokens looked up at each
VOCABULARY, STRETCH, SEED = 500, 20, 606
MAKERS: dict[str, Callable[[], Text]] = {
    "ngram earliest": lambda: NgramText(4),
    "ngram latest": lambda: RecentText(4),
    "suffix": SuffixText,
}


def text_of(length: int) -> list[int]:
    """Random stretches, every tenth a copy."""
    rng = random.Random(SEED)
    ids: list[int] = []
    while len(ids) < length:
        if len(ids) > STRETCH and rng.random() < 1 / 10:
            start = rng.randrange(len(ids) - STRETCH)
            ids += ids[start : start + STRETCH]
        else:
            ids += (rng.randrange(VOCABULARY) for _ in range(STRETCH))
    return ids[:length]


def microseconds(make: Callable[[], Text], length: int) -> float:
    """Per token, behind `length` others."""
    ids = text_of(length + MEASURED)
    text = make()
    text.extend(ids[:length])
    begin = time.perf_counter()
    for token in ids[length:]:
        text.extend((token,))
        text.following(text.find(), COUNT)
    return (time.perf_counter() - begin) / MEASURED * 1e6


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "lookup.json")
    options.add_argument("--runs", type=int, default=5)
    arguments = parsed(options)
    found: dict[str, dict[str, float]] = {}
    for name, make in MAKERS.items():
        found[name] = {
            str(length): statistics.median(
                microseconds(make, length) for _ in range(arguments.runs)
            )
            for length in LENGTHS
        }
        print(name, {length: round(value, 2) for length, value in found[name].items()}, flush=True)
    save(arguments.output, {"microseconds_per_token": found, "runs": arguments.runs})


if __name__ == "__main__":
    main()
