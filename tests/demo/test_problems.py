"""Problems are reproducible, right, freely worded, and never both trained on and asked."""

import random
import re
from itertools import islice

import pytest

from fly.demo.problems import (
    KINDS,
    Kind,
    UnknownKindError,
    arithmetic,
    code,
    heldout,
    training_stream,
)
from fly.demo.problems.problem import is_heldout


def test_streams_are_reproducible_and_resumable() -> None:
    first = list(islice(training_stream(3), 40))
    assert first == list(islice(training_stream(3), 40))
    assert first[25:] == list(islice(training_stream(3, start=25), 15))
    assert first != list(islice(training_stream(4), 40))
    assert {problem.kind for problem in first} == set(KINDS)


@pytest.mark.parametrize(("kind", "count"), [("arithmetic", 2000), ("code", 2000)])
def test_heldout_items_are_distinct_and_reproducible(kind: Kind, count: int) -> None:
    items = heldout(kind, count, seed=1)
    assert len({item.key for item in items}) == count
    assert all(is_heldout(item.key) and item.kind == kind for item in items)
    assert items[:50] == heldout(kind, 50, seed=1)


def test_nothing_held_out_is_trained_on() -> None:
    asked = {
        item.key
        for kind in KINDS
        for seed in (0, 1, 7)
        for item in heldout(kind, 500 if kind == "code" else 1000, seed=seed)
    }
    trained = {problem.key for problem in islice(training_stream(0), 20_000)}
    assert not asked & trained
    assert not any(map(is_heldout, trained))


@pytest.mark.parametrize(("kind", "count"), [("poetry", 1), ("code", 2001), ("code", -1)])
def test_unknown_kinds_and_impossible_counts_are_refused(kind: Kind, count: int) -> None:
    with pytest.raises(UnknownKindError, match=re.escape(str(count) if kind == "code" else kind)):
        heldout(kind, count)


def test_every_working_holds_and_the_last_is_the_answer() -> None:
    equal = rf" (?:{'|'.join(arithmetic.EQUALS)}) "
    for problem in islice(training_stream(5, "arithmetic"), 500):
        workings = re.findall(rf"(\S+){equal}(\S+){equal}(\d+) ", problem.solution)
        assert len(workings) == problem.solution.count("\n")
        for whole, part, result in workings:
            assert eval(whole) == eval(part) == int(result)
        assert problem.answer == workings[-1][2]
        assert problem.solution.endswith(f"\n#### {problem.answer}")


def test_every_function_passes_its_own_test_and_no_other_limit_does() -> None:
    for problem in islice(training_stream(5, "code"), 300):
        _run(problem.prompt + problem.solution, problem.test, problem.entry_point)
        limit = int(re.findall(r"= (\d\d+)\n", problem.solution)[0])
        wrong = problem.solution.replace(f"= {limit}\n", f"= {limit + 1}\n")
        with pytest.raises(AssertionError):
            _run(problem.prompt + wrong, problem.test, problem.entry_point)


def test_wording_varies_while_numbers_operators_and_names_do_not() -> None:
    sums = arithmetic.draw_facts(random.Random(2))
    function = code.draw_facts(random.Random(2))
    for variants in (
        [arithmetic.render(sums, random.Random(seed)) for seed in range(20)],
        [code.render(function, random.Random(seed)) for seed in range(20)],
    ):
        assert len({variant.solution for variant in variants}) > 15
        assert len({variant.prompt for variant in variants}) == 1
        assert len({variant.key for variant in variants}) == 1
        forced = {tuple(re.findall(r"\d+|[-+*<>=]+", variant.solution)) for variant in variants}
        assert len(forced) == 1


def _run(program: str, test: str, entry_point: str) -> None:
    names: dict[str, object] = {}
    exec(f"{program}\n{test}\ncheck({entry_point})", names)
