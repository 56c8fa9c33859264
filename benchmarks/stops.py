"""What guarding stop strings changes: `python benchmarks/stops.py`.

The embedded pair, greedily, on the word problems of `fly_demo_math_stop`, FLy with and without
`protect_stop_strings` beside the target.  Two kinds of stop strings: `sure`, where the result would
follow, of which the task reads the last step's ("recovery" as in `fly compare`); `in doubt`, one of
four closings of a step between which the target has no preference: the question is after which
step the answer ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict

from blocks import MAX_NEW_TOKENS, Pair, parsed, parser, save

from fly.config import FLyConfig
from fly.demo.problems import Problem, heldout
from fly.engine import Result
from fly.stats.paired import compare_scores

K, BATCH = 15, 32
SEED = 0  # of the task's items
SURE, IN_DOUBT = "\n####", (" at", " after", " when", " once")
# As the task reads it, and where a stop string has cut the closing.
RESULT = re.compile(r"([0-9]+) [a-z]+(?= (?:at|after|when|once) |$)")
GUARDED = {"guarded": True, "not guarded": False}


class Answers:
    """Of one stop string, by rule and guard."""

    def __init__(self, pair: Pair, problems: Sequence[Problem], stop: str) -> None:
        """Decode the target's own."""
        self._prompts = [pair.encode(problem.prompt) for problem in problems]
        self._stop = stop
        self._decoder = pair.decoder(BATCH, spd_k=K)
        self.own = self.by(acceptance="native")

    def by(self, **settings: object) -> list[Result]:
        """What these settings answer."""
        decoder = self._decoder.with_config(FLyConfig(spd_k=K, **settings))
        return decoder.generate(self._prompts, max_new_tokens=MAX_NEW_TOKENS, stop=[self._stop])

    def changed(self, results: Sequence[Result]) -> dict[str, int]:
        """Against the target's own."""
        pairs = list(zip(results, self.own, strict=True))
        return {
            "answers": len(pairs),
            "other texts": sum(one.text != own.text for one, own in pairs),
            "other number of steps": sum(steps(one) != steps(own) for one, own in pairs),
            "other result": sum(last_result(one) != last_result(own) for one, own in pairs),
            "loose": sum(one.statistics.loose for one in results),
            "tokens": sum(one.statistics.emitted for one in results),
        }


def steps(result: Result) -> int:
    """Lines of an answer."""
    return result.text.count("\n")


def last_result(result: Result) -> str:
    """Of the step that the answer ends with."""
    return str(["", *RESULT.findall(result.text)][-1])


def is_right(result: Result, problem: Problem) -> float:
    """The task's score."""
    return float(last_result(result) == problem.answer)


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "stops.json")
    options.add_argument("--items", type=int, default=500)
    arguments = parsed(options)
    pair = Pair()
    problems = heldout("arithmetic", arguments.items, SEED)
    found: dict[str, dict[str, object]] = {}
    for stop in (SURE, *IN_DOUBT):
        answers = Answers(pair, problems, stop)
        for name, is_guarded in GUARDED.items():
            results = answers.by(acceptance="fly", protect_stop_strings=is_guarded)
            told: dict[str, object] = dict(answers.changed(results))
            if stop == SURE:
                scores = [
                    [is_right(one, problem) for one, problem in zip(some, problems, strict=True)]
                    for some in (answers.own, results)
                ]
                paired = compare_scores(scores[0], scores[1], range(len(problems))).to_paired()
                told |= {"score": sum(scores[1]) / len(problems)}
                told |= {"paired": asdict(paired)}
            found[f"{stop!r}, {name}"] = told
            print(f"{stop!r}, {name}: {told}", flush=True)
    save(arguments.output, {"spd_k": K, "batch_size": BATCH, "found": found})


if __name__ == "__main__":
    main()
