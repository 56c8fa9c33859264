"""Which problems are solved."""

from __future__ import annotations

from collections.abc import Sequence

from fly.demo.problems import Problem
from fly.execution import PASSED, execute

TIME_LIMIT_S = 10.0  # of one program


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
