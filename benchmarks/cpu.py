"""Speed, equality and recovery of the embedded pair on a CPU: `python benchmarks/cpu.py`.

Every method runs over the same problems, none of which was ever trained on, in blocks; the order
of the methods rotates from block to block, so that drift of the machine hits all alike.  Whole
wall time, prefill included.  Batch sizes and K are searched beforehand on other problems.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import environment
import torch
from equality import equality
from intervals import Ratio, ratio_over_blocks
from methods import (
    Method,
    Pair,
    Timed,
    assisted_generate,
    engine,
    plain_generate,
)

from fly.demo.problems import Problem, heldout
from fly.demo.score import solved

SEARCH_SEED, MEASURE_SEED = 202, 101
CODE_SHARE = 1 / 3  # as in the tasks
BATCHES = (1, 8, 16, 32, 64, 128)
OTHER_K = (8, 10, 12)  # besides 15, at the best batch
ALONE = 10  # methods at batch 1 run over every tenth problem of a block
ASSISTED = {"assisted-default": None, "assisted-k4": 4, "assisted-k15": 15}
Blocks = list[dict[str, Timed]]  # by method, a block each


@dataclass(frozen=True)
class Setting:
    """A batch size and, for the engine, how FLy drafts and loosens."""

    batch_size: int
    spd_k: int = 15
    drafter: str = "model"

    @property
    def config(self) -> dict[str, object]:
        """For the configuration; window and gate are the defaults, W = 6 and 0.3 nats."""
        return {"spd_k": self.spd_k, "drafter": self.drafter}


@dataclass(frozen=True)
class Settings:
    """The fastest ones."""

    plain: Setting  # of `generate`; only its batch counts
    fly: Setting
    alone: Setting  # of FLy at batch 1


def draw_problems(count: int, seed: int) -> list[Problem]:
    """Held-out problems of both kinds, mixed."""
    num_code = round(count * CODE_SHARE)
    problems = [*heldout("arithmetic", count - num_code, seed), *heldout("code", num_code, seed)]
    random.Random(seed).shuffle(problems)
    return problems


def search(pair: Pair, prompts: Sequence[list[int]]) -> tuple[Settings, dict[str, object]]:
    """The fastest settings, found on problems of their own, and all speeds in tokens/s."""
    plain = {Setting(size): speed(plain_generate(pair, size), size, prompts) for size in BATCHES}
    fly: dict[Setting, float] = {}
    try_settings(pair, fly, [Setting(size) for size in BATCHES], prompts)
    batch_size = fastest(fly).batch_size
    try_settings(pair, fly, [Setting(batch_size, k) for k in OTHER_K], prompts)
    alone = {setting: found for setting, found in fly.items() if setting.batch_size == 1}
    try_settings(pair, alone, [Setting(1, drafter="multilevel")], prompts)
    tables = {"generate": plain, "fly": fly, "fly_at_batch_1": alone}
    spelled = {name: {str(s): v for s, v in table.items()} for name, table in tables.items()}
    return Settings(fastest(plain), fastest(fly), fastest(alone)), spelled


def try_settings(
    pair: Pair,
    speeds: dict[Setting, float],
    settings: Sequence[Setting],
    prompts: Sequence[list[int]],
) -> None:
    """Add FLy's tokens per second with each setting."""
    for setting in settings:
        method = engine(pair, setting.batch_size, **setting.config)
        speeds[setting] = speed(method, setting.batch_size, prompts)


def speed(method: Method, batch_size: int, prompts: Sequence[list[int]]) -> float:
    """Tokens per second; one at a time is an order of magnitude slower, so fewer problems tell."""
    return method(prompts[:24] if batch_size == 1 else prompts).tokens_per_s


def fastest(speeds: dict[Setting, float]) -> Setting:
    """The setting of the highest speed."""
    return max(speeds, key=lambda setting: speeds[setting])


def all_methods(pair: Pair, best: Settings) -> dict[str, tuple[Method, int]]:
    """Methods by name, with the share of problems that each runs: every n-th."""
    fly = best.fly
    native = {**fly.config, "acceptance": "native"}
    return {
        "generate-best": (plain_generate(pair, best.plain.batch_size), 1),
        "native-same": (engine(pair, fly.batch_size, **native), 1),
        "fly-best": (engine(pair, fly.batch_size, **fly.config), 1),
        "fly-1": (engine(pair, 1, **best.alone.config), ALONE),
        **{name: (assisted_generate(pair, k), ALONE) for name, k in ASSISTED.items()},
    }


def measure(
    methods: dict[str, tuple[Method, int]], prompts: Sequence[list[int]], num_blocks: int
) -> Blocks:
    """Run all methods over all blocks, in rotating order, after a warm-up."""
    names = list(methods)
    for method, _ in methods.values():
        method(prompts[:2])
    blocks: Blocks = []
    for block in range(num_blocks):
        own = prompts[block::num_blocks]
        turn = block * len(names) // num_blocks
        timed = {}
        for name in names[turn:] + names[:turn]:
            method, share = methods[name]
            timed[name] = method(own[::share])
            print(f"block {block} {name}: {timed[name].tokens_per_s:.1f} tokens/s", flush=True)
        blocks.append(timed)
    return blocks


def speed_ratio(blocks: Blocks, method: str, baseline: str) -> Ratio:
    """Tokens per second of one method by another's."""
    speeds = [[block[name].tokens_per_s for block in blocks] for name in (method, baseline)]
    return ratio_over_blocks(*speeds)


def recovery(pair: Pair, problems: Sequence[Problem], blocks: Blocks) -> dict[str, object]:
    """Solved problems of FLy by the target's own, with paired counts."""
    outcomes = []
    with ThreadPoolExecutor(2) as pool:
        for index, block in enumerate(blocks):
            own = problems[index :: len(blocks)]
            texts = [
                [pair.decode(answer) for answer in block[name].answers]
                for name in ("generate-best", "fly-best")
            ]
            outcomes.append([list(pool.map(solved, own, column)) for column in texts])
    plain, fly = ([item for block in outcomes for item in block[side]] for side in (0, 1))
    kinds = [p.kind for index in range(len(blocks)) for p in problems[index :: len(blocks)]]
    over = ratio_over_blocks([sum(block[1]) for block in outcomes], [sum(b[0]) for b in outcomes])
    return {
        "items": len(plain),
        "target_solved": sum(plain),
        "fly_solved": sum(fly),
        "became_wrong": sum(a and not b for a, b in zip(plain, fly, strict=True)),
        "became_right": sum(b and not a for a, b in zip(plain, fly, strict=True)),
        "by_kind": {
            kind: {
                "items": kinds.count(kind),
                "target_solved": sum(a for a, k in zip(plain, kinds, strict=True) if k == kind),
                "fly_solved": sum(b for b, k in zip(fly, kinds, strict=True) if k == kind),
            }
            for kind in sorted(set(kinds))
        },
        "recovery": sum(fly) / sum(plain),
        "over_blocks": over.to_dict(),
    }


def bar(name: str, wanted: float, ratio: Ratio) -> dict[str, object]:
    """A bar is met when the lower end of the interval meets it."""
    return {"name": name, "at_least": wanted, "met": ratio.low >= wanted, **ratio.to_dict()}


def main() -> None:
    """Measure, print and save."""
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)
    pair = Pair()
    looked_at = [pair.encode(p.prompt) for p in draw_problems(arguments.search, SEARCH_SEED)]
    best, speeds = search(pair, looked_at)
    print(json.dumps(speeds, indent=1), best, flush=True)
    problems = draw_problems(arguments.problems, MEASURE_SEED)
    prompts = [pair.encode(problem.prompt) for problem in problems]
    blocks = measure(all_methods(pair, best), prompts, arguments.blocks)
    report = {
        "environment": environment.describe(),
        "search": {"best": asdict(best), "tokens_per_s": speeds},
        **summarise(pair, problems, blocks),
        "equality": equality(prompts[: arguments.equality], arguments.threads),
    }
    text = json.dumps(report, indent=1, default=str)
    Path(arguments.output).write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: report[key] for key in ("equality", "recovery", "bars")}, indent=1))


def summarise(pair: Pair, problems: Sequence[Problem], blocks: Blocks) -> dict[str, object]:
    """Recovery, bars, and what they were computed from."""
    assisted = max(ASSISTED, key=lambda name: sum(block[name].tokens_per_s for block in blocks))
    scores = recovery(pair, problems, blocks)
    over = scores["over_blocks"]
    assert isinstance(over, dict)
    native = speed_ratio(blocks, "fly-best", "native-same")
    return {
        "recovery": scores,
        "bars": [
            bar(f"fly at batch 1 / {assisted}", 1.5, speed_ratio(blocks, "fly-1", assisted)),
            bar("fly best / generate best", 1.6, speed_ratio(blocks, "fly-best", "generate-best")),
            bar("fly / native, same batch and K", 1.25, native),
            bar("recovery", 0.96, Ratio(**over)),
        ],
        "blocks": [
            {
                name: {
                    "answers": len(timed.answers),
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
    options.add_argument("--blocks", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--output", default="benchmarks/results/cpu.json")
    return options


if __name__ == "__main__":
    main()
