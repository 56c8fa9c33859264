"""Word problems of two or three operations, solved step by step."""

# Each step is `<opening> <what happens>, <link> <working> <things> <closing>.`, and a working is
# `345+20+8 <is> 365+8 <is> 373` or `6*50+6*7 <is> 300+42 <is> 342`.  Opening, link, both words for
# "is" and closing are free: four equally likely wordings each, which differ in one word, at least
# six tokens apart.  Everything else follows from the question.

from __future__ import annotations

import random
from dataclasses import dataclass

from fly.demo.problems.problem import Problem

NAMES = (
    "Mia", "Tom", "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida",
    "Jack", "Kate", "Leo", "Maria", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor",
    "Wendy", "Yusuf",
)  # fmt: skip
THINGS = (
    "apples", "books", "pencils", "stamps", "marbles", "cards", "shells", "coins", "eggs", "roses",
    "bricks", "buttons", "tickets", "candles", "cookies", "lemons", "stones", "nails", "beads",
    "plums",
)  # fmt: skip
CONTAINERS = ("boxes", "bags", "crates", "baskets", "jars", "sacks")
GAINS = ("buys", "finds", "receives", "collects")
LOSSES = ("sells", "loses", "returns", "donates")

FIRST_OPENINGS = ("First", "Initially", "Originally", "Today")
OPENINGS = ("Then", "Next", "Afterwards", "Later")
LINKS = ("so there are", "which means that", "and we get", "making it to")
EQUALS = ("is", "equals", "makes", "gives")
CLOSINGS = (
    "at the end of this part",
    "after this step is over now",
    "when all of that is done",
    "once everything has been counted up",
)
QUESTIONS = (
    "How many {things} does {name} have now?",
    "How many {things} are there in the end?",
    "What is the number of {things} after that?",
)
SMALLEST, LARGEST = 10, 999  # of every amount along the way
LARGEST_CHANGE = 99  # a gain or a loss has two digits


@dataclass(frozen=True)
class Operation:
    """One operation: `left operator right = result`, and the words that the question has for it."""

    left: int
    operator: str  # "+", "-" or "*"
    right: int
    text: str  # what happens, as in "Tom sells 128 apples"

    @property
    def result(self) -> int:
        """What the operation gives."""
        if self.operator == "+":
            return self.left + self.right
        return self.left - self.right if self.operator == "-" else self.left * self.right

    @property
    def working(self) -> tuple[str, str, str]:
        """Three equal terms, the last a plain number: tens first, then units."""
        tens, units = self.right // 10 * 10, self.right % 10
        left, sign, result = self.left, self.operator, f"{self.result}"
        if sign == "*":
            return f"{left}*{tens}+{left}*{units}", f"{left * tens}+{left * units}", result
        part = left + tens if sign == "+" else left - tens
        return f"{left}{sign}{tens}{sign}{units}", f"{part}{sign}{units}", result


@dataclass(frozen=True)
class QuestionFacts:
    """All that a question fixes."""

    things: str
    question: str
    steps: tuple[Operation, ...]

    @property
    def key(self) -> str:
        """Numbers and operators: problems that differ only in names count as one."""
        return "arithmetic:" + ";".join(f"{s.left}{s.operator}{s.right}" for s in self.steps)


def draw_facts(rng: random.Random) -> QuestionFacts:
    """Draw a question: an amount (counted or packed in boxes), then one to three changes."""
    name, other = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    steps: list[Operation] = []
    if rng.random() < 0.5:
        boxes, each = rng.randint(2, 9), rng.randint(12, 99)
        steps.append(
            Operation(
                boxes,
                "*",
                each,
                f"{name} packs {boxes} {rng.choice(CONTAINERS)} of {each} {things}",
            )
        )
        opening = steps[0].text
        amount = steps[0].result
        changes = rng.randint(1, 2)
    else:
        amount = rng.randint(100, 899)
        opening = f"{name} owns {amount} {things}"
        changes = rng.randint(2, 3)
    sentences = [opening]
    for _ in range(changes):
        step = _change(rng, amount, rng.choice((name, other)), things)
        steps.append(step)
        sentences.append(step.text)
        amount = step.result
    sentences.append(rng.choice(QUESTIONS).format(things=things, name=name))
    return QuestionFacts(things, ". ".join(sentences), tuple(steps))


def render(facts: QuestionFacts, rng: random.Random) -> Problem:
    """Write the problem down, with a freshly worded solution."""
    lines = []
    for index, step in enumerate(facts.steps):
        opening = rng.choice(OPENINGS if index else FIRST_OPENINGS)
        whole, part, result = step.working
        lines.append(
            f"{opening} {step.text}, {rng.choice(LINKS)} {whole} {rng.choice(EQUALS)} {part}"
            f" {rng.choice(EQUALS)} {result} {facts.things} {rng.choice(CLOSINGS)}."
        )
    answer = str(facts.steps[-1].result)
    lines.append(f"#### {answer}")
    return Problem(
        kind="arithmetic",
        prompt=f"Question: {facts.question}\nAnswer:",
        solution=" " + "\n".join(lines),
        answer=answer,
        test="",
        entry_point="",
        key=facts.key,
    )


def _change(rng: random.Random, amount: int, name: str, things: str) -> Operation:
    """Draw a gain or a loss that keeps the amount within SMALLEST and LARGEST."""
    room = min(LARGEST - amount, LARGEST_CHANGE)
    reserve = min(amount - SMALLEST, LARGEST_CHANGE)
    if room < SMALLEST or (reserve >= SMALLEST and rng.random() < 0.5):
        right = rng.randint(SMALLEST, reserve)
        return Operation(amount, "-", right, f"{name} {rng.choice(LOSSES)} {right} {things}")
    right = rng.randint(SMALLEST, room)
    return Operation(amount, "+", right, f"{name} {rng.choice(GAINS)} {right} {things}")
