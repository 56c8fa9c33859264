"""What counts as solved."""

from dataclasses import replace

from fly.demo.problems import heldout
from fly.demo.score import solved


def test_own_solutions_are_solved_and_spoilt_ones_are_not() -> None:
    sums, function = heldout("arithmetic", 1)[0], heldout("code", 1)[0]
    assert solved(sums, sums.solution)
    assert not solved(sums, sums.solution + "1")
    assert not solved(sums, "")
    assert solved(function, function.solution)
    assert not solved(function, "\n    return 0")
    assert not solved(replace(function, test="def check(candidate): 1 / 0"), function.solution)
