"""What counts as solved."""

from dataclasses import replace

import pytest

from fly.demo.problems import heldout, solved
from fly.errors import ConfigError


def test_own_solutions_are_solved_and_spoilt_ones_are_not(monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    sums, function = heldout("arithmetic", 1)[0], heldout("code", 1)[0]
    attempts = {
        (sums, sums.solution): True,
        (function, function.solution): True,
        (sums, sums.solution + "1"): False,
        (sums, ""): False,
        (function, "\n    return 0"): False,
        (function, "\n    import posix\n    posix._exit(0)"): False,
        (replace(function, test="def check(candidate): 1 / 0"), function.solution): False,
    }
    problems, solutions = zip(*attempts, strict=True)
    assert solved(problems, solutions) == list(attempts.values())


def test_functions_are_run_with_permission_alone(monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    [sums], [function] = heldout("arithmetic", 1), heldout("code", 1)
    assert solved([sums], [sums.solution]) == [True]
    with pytest.raises(ConfigError, match="HF_ALLOW_CODE_EVAL"):
        solved([sums, function], ["", function.solution])
