"""Five-shot prompts of more than 1,000 tokens that share their examples, as lm-eval builds them
with `sampler: first_n`.  An example is a word problem and a function, both solved.
"""

from __future__ import annotations

from functools import cache

from blocks import Pair

from fly.demo.problems import Problem, heldout

NUM_SHOTS = 5
SHOTS_SEED = 404
LEAST_TOKENS = 1000


@cache
def examples() -> str:
    """The beginning of every prompt."""
    kinds = (heldout(kind, NUM_SHOTS, SHOTS_SEED) for kind in ("arithmetic", "code"))
    return "".join(
        f"{problem.prompt}{problem.solution}\n\n"
        for both in zip(*kinds, strict=True)
        for problem in both
    )


def five_shot(pair: Pair, problem: Problem) -> list[int]:
    """The ids of a problem behind five examples."""
    ids = pair.encode(examples() + problem.prompt)
    assert len(ids) > LEAST_TOKENS
    return ids
