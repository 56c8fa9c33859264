"""Multi-level drafting by plain draft-model drafting: `python benchmarks/multilevel.py`.

The embedded pair, K = 15: the same prompts with every drafter.  With native acceptance texts are
equal by construction, and compared.  Two workloads: functions to complete behind other functions
over the same long name, and word problems.  Plain drafting runs twice in every block (A/A).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from blocks import (
    Block,
    Pair,
    bar,
    engine,
    parsed,
    parser,
    run_blocks,
    save,
    shown,
    time_ratio,
    total,
)

from fly.demo.problems import code, heldout

SEED = 707
K = 15
NUM_SHOTS = (1, 2, 3)  # functions that a prompt holds already
NAME_PARTS = (3, 4, 5)  # nouns that a long name is made of
PLAIN, AGAIN = "model", "model again"
DRAFTERS: dict[str, dict[str, Any]] = {
    PLAIN: {"drafter": "model"},
    AGAIN: {"drafter": "model"},
    "ngram": {"drafter": "multilevel"},
    "ngram-earliest": {"drafter": "multilevel", "drafter_settings": {"match": "earliest"}},
    "suffix": {"drafter": "multilevel", "drafter_settings": {"guess": "suffix"}},
    "released": {
        "drafter": "multilevel",
        "drafter_settings": {"match": "earliest", "guess_cost": 0.0},
    },
}
BARS = {"repeating": 1.2, "fresh": 0.98}


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


def figures(blocks: Sequence[Block], name: str) -> dict[str, Any]:
    """What depends on the texts alone, and the phases' seconds."""
    counts = total(blocks, name).statistics
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


def report(workload: str, blocks: Sequence[Block]) -> dict[str, Any]:
    """Every drafter's ratio and figures; prints them."""
    found: dict[str, Any] = {}
    for name in blocks[0]:
        own = found[name] = figures(blocks, name)
        if name != PLAIN:
            own["ratio"] = time_ratio(blocks, PLAIN, name)
        print(
            f"{workload} {name}: {shown(own) if name != PLAIN else '-'}; draft forwards per token "
            f"{own['draft_forwards_per_token']:.3f}, proposed {own['proposed_per_token']:.3f}",
            flush=True,
        )
    return found


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "multilevel.json")
    options.add_argument("--blocks", type=int, default=8)
    options.add_argument("--repeating", type=int, default=2, help="prompts of a block")
    options.add_argument("--fresh", type=int, default=4, help="prompts of a block")
    options.add_argument("--acceptance", default="native")
    options.add_argument("--batch-size", type=int, default=1)
    options.add_argument("--workloads", nargs="+", default=list(BARS), choices=list(BARS))
    options.add_argument("--drafters", nargs="+", default=list(DRAFTERS))
    arguments = parsed(options)
    pair, batch_size = Pair(), arguments.batch_size
    chosen: dict[str, Any] = {"acceptance": arguments.acceptance, "spd_k": K}
    methods = {
        name: engine(pair, batch_size, **chosen, **DRAFTERS[name])
        for name in dict.fromkeys((PLAIN, AGAIN, *arguments.drafters))
    }
    saved: dict[str, object] = chosen | {"batch_size": batch_size}
    makers = {"repeating": (repeating, arguments.repeating), "fresh": (fresh, arguments.fresh)}
    for workload in arguments.workloads:
        make, size = makers[workload]
        prompts = [pair.encode(prompt) for prompt in make(size * arguments.blocks)]
        blocks = run_blocks(methods, prompts, arguments.blocks, 1 if batch_size == 1 else size)
        for block in blocks if arguments.acceptance == "native" and batch_size == 1 else ():
            answers = [done.answers for done in block.values()]
            assert all(answer == answers[0] for answer in answers), "a guess changed a text"
        found = report(workload, blocks)
        if "ngram" in found:
            found["ngram"] = bar(found["ngram"], BARS[workload])
        saved[workload] = {
            "prompts": len(prompts),
            "prompt_tokens": sum(map(len, prompts)),
            "drafters": found,
        }
        save(arguments.output, saved)


if __name__ == "__main__":
    main()
