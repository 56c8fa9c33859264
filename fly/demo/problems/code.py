"""Small Python functions, which pick values on one side of a limit.  They then count, add, list or
find.  The limit is given in two units ("2 hours and 35 minutes") and needed in the smaller one
(155), so there is a number to work out."""

# Comments and the names of local variables are free, with alternatives that differ in one word; a
# name, once chosen, is forced wherever it is used again.

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

from fly.demo.problems.problem import Problem


@dataclass(frozen=True)
class Unit:
    """A pair of units, and what is measured in them."""

    large: str
    small: str
    factor: int  # how many small ones make a large one
    nouns: tuple[str, ...]


UNITS = (
    Unit("hours", "minutes", 60, ("flights", "films", "shifts")),
    Unit("minutes", "seconds", 60, ("songs", "laps", "calls")),
    Unit("weeks", "days", 7, ("trips", "loans", "courses")),
    Unit("days", "hours", 24, ("storms", "cruises", "repairs")),
    Unit("feet", "inches", 12, ("planks", "ropes", "fences")),
    Unit("years", "months", 12, ("leases", "contracts", "bonds")),
    Unit("dollars", "cents", 100, ("prices", "fees", "tips")),
)
COMPARISONS = {"more than": ">", "less than": "<", "at least": ">=", "at most": "<="}
HOLDS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}

LIMIT_NAMES = ("limit", "bound", "border", "mark")
RESULT_NAMES = ("result", "answer", "outcome", "found")
VALUE_NAMES = ("value", "item", "entry", "x")
LIMIT_COMMENTS = ("Convert", "Express", "Write", "Turn")
LOOP_COMMENTS = (
    "Go through them one after the other.",
    "Look at each of them in turn.",
    "Visit every one of them once.",
    "Take them in the given order.",
)
MATCH_COMMENTS = (
    "This is one of those we want.",
    "Here is another that has to count.",
    "Such a one must not be missed.",
    "Only these are of interest to us.",
)
END_COMMENTS = (
    "Now all of them have been seen.",
    "By this point the work is done.",
    "That was the last one of them.",
    "Nothing else remains to be done here.",
)


@dataclass(frozen=True)
class Family:
    """One kind of function, by what becomes of the values that are picked."""

    verb: str  # first part of the function's name
    docstring: str
    start: str  # the result before the first value
    update: str  # what is done with a value that is picked
    expected: Callable[[list[int], int], object]  # picked values, factor -> what is returned


FAMILIES = (
    Family("count", "Count the {chosen}.", "0", "{result} += 1", lambda picked, _: len(picked)),
    Family(
        "total", "Add up the {chosen}.", "0", "{result} += {value}",
        lambda picked, _: sum(picked),
    ),
    Family(
        "list", "List the {chosen}.", "[]", "{result}.append({value})",
        lambda picked, _: list(picked),
    ),
    Family(
        "last", "Find the last of the {chosen}, or return -1.", "-1", "{result} = {value}",
        lambda picked, _: picked[-1] if picked else -1,
    ),
    Family(
        "scale", "Add up the {chosen}, each taken {factor} times.", "0",
        "{result} += {value} * {factor}", lambda picked, factor: sum(picked) * factor,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class PromptFacts:
    """All that a prompt fixes."""

    family: Family
    unit: Unit
    noun: str
    comparison: str  # in words
    large: int
    small: int
    factor: int  # 1 where the family has none

    @property
    def limit(self) -> int:
        """The limit in small units."""
        return self.large * self.unit.factor + self.small

    @property
    def amount(self) -> str:
        """The limit as the prompt writes it."""
        return f"{self.large} {self.unit.large} and {self.small} {self.unit.small}"

    @property
    def entry_point(self) -> str:
        """The function's name."""
        return f"{self.family.verb}_{self.noun}"

    @property
    def key(self) -> str:
        """The family, the units and the numbers; nouns do not count."""
        return (
            f"code:{self.family.verb};{COMPARISONS[self.comparison]};{self.unit.large}"
            f";{self.large};{self.small};{self.factor}"
        )


def draw_facts(rng: random.Random) -> PromptFacts:
    """Draw a function to write."""
    unit = rng.choice(UNITS)
    family = rng.choice(FAMILIES)
    return PromptFacts(
        family=family,
        unit=unit,
        noun=rng.choice(unit.nouns),
        comparison=rng.choice(tuple(COMPARISONS)),
        large=rng.randint(2, 9),
        small=rng.randint(2, unit.factor - 1),
        factor=rng.randint(2, 9) if family.verb == "scale" else 1,
    )


def render(facts: PromptFacts, rng: random.Random) -> Problem:
    """Write the problem down, with a freshly worded solution."""
    family, unit, noun = facts.family, facts.unit, facts.noun
    chosen = f"{noun} of {facts.comparison} {facts.amount}"
    docstring = family.docstring.format(chosen=chosen, factor=facts.factor)
    prompt = (
        f"def {facts.entry_point}({noun}):\n"
        f'    """{docstring}\n\n    The {noun} are given in {unit.small}.\n    """'
    )
    limit, result, value = (rng.choice(names) for names in (LIMIT_NAMES, RESULT_NAMES, VALUE_NAMES))
    update = family.update.format(result=result, value=value, factor=facts.factor)
    lines = (
        f"    # {rng.choice(LIMIT_COMMENTS)} {facts.amount} to {unit.small}.",
        f"    {limit} = {facts.limit}",
        f"    {result} = {family.start}",
        f"    # {rng.choice(LOOP_COMMENTS)}",
        f"    for {value} in {noun}:",
        f"        if {value} {COMPARISONS[facts.comparison]} {limit}:",
        f"            # {rng.choice(MATCH_COMMENTS)}",
        f"            {update}",
        f"    # {rng.choice(END_COMMENTS)}",
        f"    return {result}",
    )
    return Problem(
        kind="code",
        prompt=prompt,
        solution="\n" + "\n".join(lines),
        answer="",
        test=_test(facts),
        entry_point=facts.entry_point,
        key=facts.key,
    )


def _test(facts: PromptFacts) -> str:
    """Assertions around the limit: being off by one, or on the wrong side, fails."""
    limit = facts.limit
    below, above = limit // 2, limit + 37
    samples: tuple[list[int], ...] = (
        [below, limit - 1, limit, limit + 1, above],
        [above, limit + 1, limit, limit - 1, below],
        [limit + 1, limit - 1],
        [limit],
        [],
    )
    holds = HOLDS[COMPARISONS[facts.comparison]]
    lines = ["def check(candidate):"]
    for values in samples:
        picked = [v for v in values if holds(v, limit)]
        expected = facts.family.expected(picked, facts.factor)
        lines.append(f"    assert candidate({values!r}) == {expected!r}")
    return "\n".join(lines) + "\n"
