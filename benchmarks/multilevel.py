"""Multi-level drafting by plain draft-model drafting: `python benchmarks/multilevel.py`.

The embedded pair, K = 15, one thread: the same prompts with every drafter, in blocks whose order
rotates; whole wall time, prefill included.  Texts are equal by construction and compared.  Two
workloads: functions to complete behind other functions over the same long name, and word problems.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import environment
import torch
from intervals import Ratio, ratio_over_blocks
from methods import Method, Pair, Timed, engine, interleave, total

from fly.demo.problems import code, heldout

SEED = 707
K = 15
NUM_SHOTS = (1, 2, 3)  # functions that a prompt holds already
NAME_PARTS = (3, 4, 5)  # nouns that a long name is made of
DRAFTERS: dict[str, dict[str, object]] = {
    "model": {"drafter": "model"},
    "ngram": {"drafter": "multilevel"},
    "ngram-earliest": {"drafter": "multilevel", "drafter_settings": {"match": "earliest"}},
    "suffix": {"drafter": "multilevel", "drafter_settings": {"guess": "suffix"}},
    "released": {
        "drafter": "multilevel",
        "drafter_settings": {"match": "earliest", "guess_cost": 0.0},
    },
}
BARS = {"repeating": 1.2, "fresh": 0.98}
Blocks = list[dict[str, Timed]]  # by drafter


def repeating(count: int) -> list[str]:
    """Files with one to three functions over a long name, and the head of the next."""
    rng = random.Random(SEED)
    nouns = [noun for unit in code.UNITS for noun in unit.nouns]
    prompts = []
    for _ in range(count):
        name = "_".join(rng.sample(nouns, rng.choice(NAME_PARTS)))
        facts = [replace(code.draw_facts(rng), noun=name) for _ in range(rng.choice(NUM_SHOTS) + 1)]
        *solved, asked = (code.render(one, rng) for one in facts)
        texts = [problem.prompt + problem.solution for problem in solved]
        prompts.append("\n\n\n".join([*texts, asked.prompt]))
    return prompts


def fresh(count: int) -> list[str]:
    """Word problems as in the task fly_demo_math: names and numbers change."""
    return [problem.prompt for problem in heldout("arithmetic", count, SEED)]


def measure(methods: dict[str, Method], blocks: Sequence[Sequence[list[int]]]) -> Blocks:
    """Run all drafters over all blocks, prompt after prompt."""
    interleave(methods, [blocks[0][:1]])
    measured = []
    for turn, prompts in enumerate(blocks):
        block = interleave(methods, [[prompt] for prompt in prompts], turn)
        answers = [timed.answers for timed in block.values()]
        assert all(answer == answers[0] for answer in answers), "a guess changed a text"
        measured.append(block)
    return measured


def measure_batches(methods: dict[str, Method], blocks: Sequence[Sequence[list[int]]]) -> Blocks:
    """The same, every block as a batch."""
    interleave(methods, [blocks[0][:1]])
    return [interleave(methods, [prompts], turn) for turn, prompts in enumerate(blocks)]


def time_ratio(blocks: Blocks, name: str) -> Ratio:
    """Seconds of plain drafting by a drafter's."""
    return ratio_over_blocks(
        [block["model"].seconds for block in blocks], [block[name].seconds for block in blocks]
    )


def figures(blocks: Blocks, name: str) -> dict[str, object]:
    """What hangs on the texts alone, and the phases' seconds."""
    counts = total(blocks, name).statistics
    assert counts is not None
    return {
        "emitted": counts.emitted,
        "rounds": counts.rounds,
        "draft_forwards_per_token": counts.draft_forwards / counts.emitted,
        "proposed_per_token": counts.proposed / counts.emitted,
        "seconds": {
            phase: getattr(counts, f"seconds_{phase}")
            for phase in ("prefill", "draft", "target", "acceptance", "rest")
        },
    }


def report(workload: str, blocks: Blocks) -> dict[str, object]:
    """Every drafter's ratio and figures; prints them."""
    found: dict[str, object] = {}
    for name in blocks[0]:
        own = figures(blocks, name)
        ratio = time_ratio(blocks, name) if name != "model" else None
        found[name] = own | ({"speed_ratio": ratio.to_dict()} if ratio else {})
        said = f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else "-"
        print(
            f"{workload} {name}: {said}; draft forwards per token "
            f"{own['draft_forwards_per_token']:.3f}, proposed {own['proposed_per_token']:.3f}",
            flush=True,
        )
    return found


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--repeating", type=int, default=2, help="prompts of a block")
    parser.add_argument("--fresh", type=int, default=4, help="prompts of a block")
    parser.add_argument("--acceptance", default="native")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--workloads", nargs="+", default=list(BARS), choices=list(BARS))
    parser.add_argument("--drafters", nargs="+", default=list(DRAFTERS))
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results/multilevel.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pair = Pair()
    methods = {
        name: engine(
            pair,
            arguments.batch_size,
            acceptance=arguments.acceptance,
            spd_k=K,
            **DRAFTERS[name],
        )
        for name in ("model", *(name for name in arguments.drafters if name != "model"))
    }
    saved: dict[str, object] = environment.describe() | {
        "acceptance": arguments.acceptance,
        "batch_size": arguments.batch_size,
        "spd_k": K,
    }
    makers = {
        "repeating": (repeating, arguments.repeating),
        "fresh": (fresh, arguments.fresh),
    }
    for workload, (make, size) in makers.items():
        if workload not in arguments.workloads:
            continue
        prompts = [pair.encode(prompt) for prompt in make(size * arguments.blocks)]
        blocks = [prompts[start :: arguments.blocks] for start in range(arguments.blocks)]
        run = measure if arguments.batch_size == 1 else measure_batches
        measured = run(methods, blocks)
        drafters = report(workload, measured)
        bar = time_ratio(measured, "ngram").low if "ngram" in methods else None
        saved[workload] = {
            "prompts": len(prompts),
            "prompt_tokens": sum(map(len, prompts)),
            "drafters": drafters,
            "bar": {"at_least": BARS[workload], "met": bar is not None and bar >= BARS[workload]},
        }
        arguments.output.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
