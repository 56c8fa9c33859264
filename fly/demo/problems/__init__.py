"""Generated problems (arithmetic, small functions) in seeded streams.  A problem's *facts*
(numbers, names, operators) force most of its solution; the *wording* in between is drawn from
equally likely alternatives."""

# Two good models therefore disagree often, and harmlessly, about words, while a disagreement about
# a digit costs the answer.  Problems are split by a hash of their facts, never of their wording:
# one in ten is held out and appears in no training stream, whatever its seed.

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from fly.demo.problems import arithmetic, code
from fly.demo.problems.problem import Kind, Problem, UnknownKindError, is_heldout
from fly.execution import PASSED, execute

__all__ = [
    "KINDS",
    "Kind",
    "Problem",
    "UnknownKindError",
    "heldout",
    "is_heldout",
    "solved",
    "training_stream",
]

KINDS: tuple[Kind, ...] = ("arithmetic", "code")
ARITHMETIC_SHARE = 0.7  # of a mixed training stream; digits take longer to learn than code does
# Later items hold more code: following a variable's name through a function is learned last.
LATER_SHARE, LATER_FROM = 0.35, 39_000
TIME_LIMIT_S = 10.0  # of one program


def training_stream(seed: int, kind: Kind | None = None, start: int = 0) -> Iterator[Problem]:
    """Yield training problems without end; item i depends on the seed, the kind and i alone.

    Args:
        seed: names the stream.
        kind: one kind only, or both mixed.
        start: index of the first item yielded, so that an interrupted run goes on where it was.
    """
    if kind is not None:
        _check_kind(kind)
    index = start
    while True:
        rng = random.Random(f"train/{seed}/{kind}/{index}")
        share = ARITHMETIC_SHARE if index < LATER_FROM else LATER_SHARE
        chosen = kind or ("arithmetic" if rng.random() < share else "code")
        problem = _draw(chosen, rng)
        while is_heldout(problem.key):
            problem = _draw(chosen, rng)
        yield problem
        index += 1


def heldout(kind: Kind, count: int, seed: int = 0) -> list[Problem]:
    """Return `count` problems with distinct facts, none of which is in any training stream.

    Args:
        kind: "arithmetic" or "code".
        count: how many, at most MAX_HELDOUT: finding the last few distinct ones takes ever longer.
        seed: which ones, and in which order.
    """
    _check_kind(kind)
    if not 0 <= count <= MAX_HELDOUT[kind]:
        raise UnknownKindError(
            f"heldout: count is {count}, but 0 to {MAX_HELDOUT[kind]} distinct {kind} problems"
            " are offered",
            fix="ask for fewer, or use several seeds and expect repetitions",
        )
    rng = random.Random(f"heldout/{seed}/{kind}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = _draw(kind, rng)
        if is_heldout(problem.key):
            found.setdefault(problem.key, problem)
    return list(found.values())


MAX_HELDOUT: dict[Kind, int] = {"arithmetic": 100_000, "code": 2_000}


def _draw(kind: Kind, rng: random.Random) -> Problem:
    if kind == "arithmetic":
        return arithmetic.render(arithmetic.draw_facts(rng), rng)
    return code.render(code.draw_facts(rng), rng)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownKindError(f"problems: kind is {kind!r}", fix=f"use one of: {', '.join(KINDS)}")


def solved(problems: Sequence[Problem], solutions: Sequence[str]) -> list[bool]:
    """Whether each final number is right, or each function passes its test.

    Raises:
        ConfigError: there are functions, and they may not be run here.
    """
    programs = [
        {
            "prompt": problem.prompt,
            "completion": solution,
            "test": problem.test,
            "entry_point": problem.entry_point,
        }
        for problem, solution in zip(problems, solutions, strict=True)
        if problem.kind == "code"
    ]
    verdicts = iter(execute(programs, TIME_LIMIT_S) if programs else [])
    return [
        next(verdicts) == PASSED
        if problem.kind == "code"
        else solution.rpartition("####")[2].strip() == problem.answer
        for problem, solution in zip(problems, solutions, strict=True)
    ]
