"""Speed, equality and recovery of the embedded pair on a CPU: `python benchmarks/cpu.py`.

Every method runs over the same problems, none of which was ever trained on, in blocks; the order
of the methods rotates.  Whole wall time, prefill included.  FLy runs with the settings of
demo.json; batch sizes and the drafter at batch 1 are searched beforehand on other problems.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from blocks import (
    Method,
    Pair,
    Prompts,
    Timed,
    bar,
    engine,
    interleave,
    interval,
    load,
    parsed,
    parser,
    plain_generate,
    ratio,
    same_texts,
    save,
    share_out,
    time_ratio,
)
from fewshot import five_shot
from search import TEMPERATURE, Best, sampling_generate, search

from fly.demo import DRAFT_PATH
from fly.demo.problems import Problem, heldout, solved
from fly.execution import check_permission
from fly.stats.paired import compare_scores

SEARCH_SEED, MEASURE_SEED = 202, 101
CODE_SHARE = 1 / 3  # as in the tasks
ALONE = 8  # methods at batch 1 run over every eighth problem of a block
SHOTS = 4  # few-shot prompts are built for every fourth problem of a block
ASSISTED = {"assisted-default": None, "assisted-k4": 4, "assisted-k15": 15}
FLY, AGAIN = "fly-best", "fly-best again"
NATIVE_BATCHES = (1, 32)  # whose texts are compared with `generate`
Block = Mapping[str, Timed]  # by method


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
    fly = best.fly.method(pair)
    together = {
        "generate-best": plain_generate(pair, best.generate),
        "native-own-k": best.native.method(pair),
        "native-same-k": replace(best.fly, acceptance="native").method(pair),
        FLY: fly,
        AGAIN: fly,
        "generate-sampled": sampling_generate(pair, best.generate_sampled),
        "native-sampled": best.native_sampled.method(pair),
    }
    shots = {
        f"five-shot-{name}": fresh(pair, best.fly.batch_size, is_shared)
        for name, is_shared in (("shared", True), ("unshared", False))
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


def fresh(pair: Pair, batch_size: int, is_shared: bool) -> Method:
    """FLy in a decoder that is made for every call, outside its time: it has seen no prompt yet."""
    return lambda prompts: engine(pair, batch_size, share_prefixes=is_shared)(prompts)


def assisted_generate(pair: Pair, num_assistant_tokens: int | None) -> Method:
    """Transformers' assisted generation, which knows batch 1 only.

    None leaves its defaults, which adapt the number of tokens; a number fixes it, and switches off
    the confidence threshold that would cut it short.
    """
    draft = load(DRAFT_PATH)
    if num_assistant_tokens is not None:
        draft.generation_config.num_assistant_tokens = num_assistant_tokens
        draft.generation_config.num_assistant_tokens_schedule = "constant"
        draft.generation_config.assistant_confidence_threshold = 0.0
    return plain_generate(pair, 1, assistant_model=draft)


def recovery(
    pair: Pair, problems: Sequence[Sequence[Problem]], blocks: Sequence[Block]
) -> dict[str, Any]:
    """Solved problems of FLy by the target's own."""
    plain, fly = (
        [solved_in(pair, own, block[name]) for own, block in zip(problems, blocks, strict=True)]
        for name in ("generate-best", FLY)
    )
    kinds = [problem.kind for own in problems for problem in own]
    outcomes = list(zip(kinds, chain(*plain), chain(*fly), strict=True))
    return {
        **paired_counts([(a, b) for _, a, b in outcomes]),
        "by_kind": {
            kind: paired_counts([(a, b) for own, a, b in outcomes if own == kind])
            for kind in sorted(set(kinds))
        },
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


def recovery_interval(counts: Mapping[str, int]) -> dict[str, Any]:
    """As in `fly compare`, from the paired counts."""
    lost, gained = counts["became_wrong"], counts["became_right"]
    both = counts["target_solved"] - lost
    neither = counts["items"] - both - lost - gained
    target = [1.0] * (both + lost) + [0.0] * (gained + neither)
    fly = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
    return asdict(compare_scores(target, fly, range(len(target))).recovery)


def equality(pair: Pair, prompts: Prompts, num_processes: int) -> dict[str, dict[str, int]]:
    """Native answers that are those of `generate`, one request at a time, by batch size; not
    timed, so shared out."""
    compared = partial(compare_share, pair.settings)
    sums: dict[str, Counter[str]] = {
        f"native at batch {size}": Counter() for size in NATIVE_BATCHES
    }
    for share in share_out(compared, prompts, num_processes):
        for size, counts in share.items():
            sums[f"native at batch {size}"].update(counts)
    return {name: dict(counts) for name, counts in sums.items()}


def compare_share(settings: Mapping[str, Any], prompts: Prompts) -> dict[int, dict[str, int]]:
    """One process's share, on one thread."""
    torch.set_num_threads(1)
    pair = Pair(**settings)
    references = plain_generate(pair, 1)(prompts).answers
    answers = {
        size: engine(pair, size, acceptance="native")(prompts).answers for size in NATIVE_BATCHES
    }
    return {
        size: same_texts(pair.target, prompts, references, own) for size, own in answers.items()
    }


def summarise(counts: Mapping[str, Any], blocks: Sequence[Block]) -> dict[str, Any]:
    """Bars and further ratios."""
    speeds = {name: sum(block[name].tokens_per_s for block in blocks) for name in ASSISTED}
    assisted = max(speeds, key=speeds.__getitem__)
    wanted = {
        f"fly at batch 1 / {assisted}": (2.3, ratio(blocks, "fly-1", assisted)),
        "fly best / generate best": (3.3, ratio(blocks, FLY, "generate-best")),
        f"fly best / {assisted}": (8, ratio(blocks, FLY, assisted)),
        f"native / generate, sampled at T = {TEMPERATURE}": (
            1.1,
            ratio(blocks, "native-sampled", "generate-sampled"),
        ),
        "five shots: seconds without / with shared prefixes": (
            1.5,
            time_ratio(blocks, "five-shot-unshared", "five-shot-shared"),
        ),
        "fly / native, same batch and K": (1.25, ratio(blocks, FLY, "native-same-k")),
        "recovery": (0.96, recovery_interval(counts)),
    }
    further = {"fly / native at its own best K": ratio(blocks, FLY, "native-own-k")}
    if AGAIN in blocks[0]:
        further["fly best again / fly best (A/A)"] = ratio(blocks, AGAIN, FLY)
    bars = [{"name": name} | bar({"ratio": one}, least) for name, (least, one) in wanted.items()]
    for one in bars:
        print(f"{one['name']}: {interval(one['ratio'])}", one["bar"])
    for name, one in further.items():
        print(f"{name}: {interval(one)}", flush=True)
    return {"bars": bars} | further


def raw(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """What ratios are computed from."""
    return [
        {
            name: {
                "answers": len(timed.answers),
                "tokens": timed.num_tokens,
                "seconds": timed.seconds,
                "tokens_per_s": timed.tokens_per_s,
                "statistics": timed.statistics.to_dict(),
                "metrics": timed.statistics.metrics(),
            }
            for name, timed in block.items()
        }
        for block in blocks
    ]


def computed_anew(path: Path) -> None:
    """A saved report's bars, from its own blocks."""
    report = json.loads(path.read_text(encoding="utf-8"))
    blocks: list[Any] = [
        {name: SimpleNamespace(num_tokens=one["tokens"], **one) for name, one in block.items()}
        for block in report["blocks"]
    ]
    report |= summarise(report["recovery"], blocks)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print and save; what was timed is saved before texts are compared."""
    arguments = parsed(command_line())
    if arguments.anew:
        return computed_anew(arguments.output)
    check_permission("benchmarks/cpu.py")
    pair = Pair(compile=arguments.compile)
    problems = draw_problems(arguments.problems, MEASURE_SEED)
    measured = {problem.key for problem in problems}
    others = [p for p in draw_problems(arguments.search, SEARCH_SEED) if p.key not in measured]
    best, speeds = search(pair, [pair.encode(problem.prompt) for problem in others])
    print(json.dumps(speeds, indent=1), best, flush=True)
    dealt = deal(problems, arguments.blocks, arguments.passes)
    blocks = measure(pair, best, dealt)
    once = slice(arguments.blocks)  # each problem is scored once
    counts = recovery(pair, dealt[once], blocks[once])
    report: dict[str, Any] = {
        "settings": pair.settings,
        "search": {"best": asdict(best), "tokens_per_s": speeds},
        "recovery": counts,
        **summarise(counts, blocks),
        "blocks": raw(blocks),
    }
    save(arguments.output, report)
    prompts = [pair.encode(problem.prompt) for problem in problems[: arguments.equality]]
    report["equality"] = equality(pair, prompts, arguments.threads)
    save(arguments.output, report)
    print(json.dumps(report["equality"], indent=1))


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    options = parser(__doc__, "cpu.json", threads=2)
    options.add_argument("--problems", type=int, default=1000)
    options.add_argument("--search", type=int, default=256, help="problems of the search")
    options.add_argument("--equality", type=int, default=1000, help="problems compared")
    options.add_argument("--blocks", type=int, default=5, help="blocks of a pass")
    options.add_argument("--passes", type=int, default=3, help="times that all problems are run")
    options.add_argument("--compile", choices=("on", "off", "auto"), default="on")
    options.add_argument("--anew", action="store_true", help="only compute --output's bars again")
    return options


if __name__ == "__main__":
    main()
