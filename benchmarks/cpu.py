"""Speed, equality and recovery of the embedded pair on a CPU: `python benchmarks/cpu.py`.

Every method runs over the same problems, none of which was ever trained on, in blocks; the order
of the methods rotates.  Whole wall time, prefill included.  FLy runs with the settings of
demo.json; batch sizes and the drafter at batch 1 are searched beforehand on other problems.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path

import environment
import torch
from equality import equality
from fewshot import five_shot
from intervals import Ratio, ratio_over_blocks
from methods import Pair, Timed, anew, assisted_generate, engine, interleave, plain_generate
from search import TEMPERATURE, Best, search

from fly.demo.problems import Problem, heldout
from fly.demo.score import solved
from fly.execution import check_permission

SEARCH_SEED, MEASURE_SEED = 202, 101
CODE_SHARE = 1 / 3  # as in the tasks
ALONE = 8  # methods at batch 1 run over every eighth problem of a block
SHOTS = 4  # few-shot prompts are built for every fourth problem of a block
ASSISTED = {"assisted-default": None, "assisted-k4": 4, "assisted-k15": 15}
Block = dict[str, Timed]  # by method


def draw_problems(count: int, seed: int) -> list[Problem]:
    """Held-out problems of both kinds, mixed."""
    num_code = round(count * CODE_SHARE)
    problems = [*heldout("arithmetic", count - num_code, seed), *heldout("code", num_code, seed)]
    random.Random(seed).shuffle(problems)
    return problems


def deal(problems: Sequence[Problem], num_blocks: int, num_passes: int) -> list[list[Problem]]:
    """Blocks of problems: every pass deals out all of them, each in an order of its own."""
    blocks = []
    for turn in range(num_passes):
        order = list(problems)
        random.Random(turn).shuffle(order)
        blocks += [order[index::num_blocks] for index in range(num_blocks)]
    return blocks


def measure(pair: Pair, best: Best, blocks: Sequence[Sequence[Problem]]) -> list[Block]:
    """Run all methods over all blocks, after a warm-up.  At batch 1, where a block would take
    minutes, the methods take turns from problem to problem.
    """
    together = {
        "generate-best": plain_generate(pair, best.generate),
        "native-own-k": best.native.method(pair),
        "native-same-k": replace(best.fly, acceptance="native").method(pair),
        "fly-best": best.fly.method(pair),
        "generate-sampled": plain_generate(pair, best.generate_sampled, TEMPERATURE),
        "native-sampled": best.native_sampled.method(pair),
    }
    shots = {
        f"five-shot-{name}": anew(partial(engine, pair, best.fly.batch_size, share_prefixes=share))
        for name, share in (("shared", True), ("unshared", False))
    }
    alone = {
        "fly-1": best.alone.method(pair),
        **{name: assisted_generate(pair, k) for name, k in ASSISTED.items()},
    }
    first = [pair.encode(problem.prompt) for problem in blocks[0][:2]]
    interleave(together | alone | shots, [first])
    measured: list[Block] = []
    for turn, problems in enumerate(blocks):
        prompts = [pair.encode(problem.prompt) for problem in problems]
        singles = [[prompt] for prompt in prompts[::ALONE]]
        asked = [five_shot(pair, problem) for problem in problems[::SHOTS]]
        block = interleave(together, [prompts], turn) | interleave(alone, singles, turn)
        block |= interleave(shots, [asked], turn)
        found = (f"{name} {timed.tokens_per_s:.0f}" for name, timed in block.items())
        print(f"block {turn}, tokens/s:", ", ".join(found), flush=True)
        measured.append(block)
    return measured


def speed_ratio(blocks: Sequence[Block], method: str, baseline: str) -> Ratio:
    """Tokens per second of one method by another's."""
    speeds = [[block[name].tokens_per_s for block in blocks] for name in (method, baseline)]
    return ratio_over_blocks(*speeds)


def time_ratio(blocks: Sequence[Block], baseline: str, method: str) -> Ratio:
    """Seconds of one method by another's."""
    seconds = [[block[name].seconds for block in blocks] for name in (baseline, method)]
    return ratio_over_blocks(*seconds)


def recovery(
    pair: Pair, problems: Sequence[Sequence[Problem]], blocks: Sequence[Block]
) -> dict[str, object]:
    """Solved problems of FLy by the target's own, with paired counts."""
    plain, fly = (
        [solved_in(pair, own, block[name]) for own, block in zip(problems, blocks, strict=True)]
        for name in ("generate-best", "fly-best")
    )
    kinds = [problem.kind for own in problems for problem in own]
    outcomes = list(zip(kinds, chain(*plain), chain(*fly), strict=True))
    over = ratio_over_blocks([sum(block) for block in fly], [sum(block) for block in plain])
    return {
        **paired_counts([(a, b) for _, a, b in outcomes]),
        "by_kind": {
            kind: paired_counts([(a, b) for own, a, b in outcomes if own == kind])
            for kind in sorted(set(kinds))
        },
        "over_blocks": over.to_dict(),
    }


def solved_in(pair: Pair, problems: Sequence[Problem], timed: Timed) -> list[bool]:
    """Which problems of a block a method solved."""
    return solved(problems, [pair.decode(answer) for answer in timed.answers])


def paired_counts(outcomes: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Of pairs: solved by the target alone, solved with FLy."""
    target, fly = (sum(column) for column in zip(*outcomes, strict=True))
    return {
        "items": len(outcomes),
        "target_solved": target,
        "fly_solved": fly,
        "became_wrong": sum(a and not b for a, b in outcomes),
        "became_right": sum(b and not a for a, b in outcomes),
        "recovery": fly / target,
    }


def bar(name: str, wanted: float, ratio: Ratio) -> dict[str, object]:
    """A bar is met when the lower end of the interval meets it."""
    return {"name": name, "at_least": wanted, "met": ratio.low >= wanted, **ratio.to_dict()}


def main() -> None:
    """Measure, print and save; what was timed is saved before texts are compared."""
    arguments = parser().parse_args()
    check_permission("benchmarks/cpu.py")
    torch.set_num_threads(arguments.threads)
    pair = Pair()
    problems = draw_problems(arguments.problems, MEASURE_SEED)
    measured = {problem.key for problem in problems}
    others = [p for p in draw_problems(arguments.search, SEARCH_SEED) if p.key not in measured]
    best, speeds = search(pair, [pair.encode(problem.prompt) for problem in others])
    print(json.dumps(speeds, indent=1), best, flush=True)
    dealt = deal(problems, arguments.blocks, arguments.passes)
    blocks = measure(pair, best, dealt)
    once = slice(arguments.blocks)  # each problem is scored once
    report = {
        "environment": environment.describe(),
        "search": {"best": asdict(best), "tokens_per_s": speeds},
        **summarise(recovery(pair, dealt[once], blocks[once]), blocks),
    }
    save(report, arguments.output)
    prompts = [pair.encode(problem.prompt) for problem in problems[: arguments.equality]]
    report["equality"] = equality(prompts, arguments.threads)
    save(report, arguments.output)
    print(json.dumps({key: report[key] for key in ("equality", "recovery", "bars")}, indent=1))


def save(report: dict[str, object], path: str) -> None:
    """Write the raw results."""
    Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def summarise(scores: dict[str, object], blocks: Sequence[Block]) -> dict[str, object]:
    """Bars and further ratios, and what they were computed from."""
    assisted = max(ASSISTED, key=lambda name: sum(block[name].tokens_per_s for block in blocks))
    over = scores["over_blocks"]
    assert isinstance(over, dict)
    native = speed_ratio(blocks, "fly-best", "native-same-k")
    return {
        "recovery": scores,
        "bars": [
            bar(f"fly at batch 1 / {assisted}", 1.5, speed_ratio(blocks, "fly-1", assisted)),
            bar("fly best / generate best", 1.9, speed_ratio(blocks, "fly-best", "generate-best")),
            bar(f"fly best / {assisted}", 8, speed_ratio(blocks, "fly-best", assisted)),
            bar(
                f"native / generate, sampled at T = {TEMPERATURE}",
                1.1,
                speed_ratio(blocks, "native-sampled", "generate-sampled"),
            ),
            bar(
                "five shots: seconds without / with shared prefixes",
                1.5,
                time_ratio(blocks, "five-shot-unshared", "five-shot-shared"),
            ),
            bar("fly / native, same batch and K", 1.25, native),
            bar("recovery", 0.96, Ratio(**over)),
        ],
        "fly / native at its own best K": speed_ratio(blocks, "fly-best", "native-own-k").to_dict(),
        "blocks": [
            {
                name: {
                    "answers": len(timed.answers),
                    "tokens": timed.num_tokens,
                    "seconds": timed.seconds,
                    "tokens_per_s": timed.tokens_per_s,
                    "statistics": timed.statistics and timed.statistics.to_dict(),
                    "metrics": timed.statistics and timed.statistics.metrics(),
                }
                for name, timed in block.items()
            }
            for block in blocks
        ],
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python benchmarks/cpu.py", description=__doc__)
    options.add_argument("--problems", type=int, default=1000)
    options.add_argument("--search", type=int, default=256, help="problems of the search")
    options.add_argument("--equality", type=int, default=1000, help="problems compared")
    options.add_argument("--blocks", type=int, default=5, help="blocks of a pass")
    options.add_argument("--passes", type=int, default=3, help="times that all problems are run")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--output", default="benchmarks/results/cpu.json")
    return options


if __name__ == "__main__":
    main()
