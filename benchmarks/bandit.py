"""The bandit by fixed arms: `python benchmarks/bandit.py`.

The embedded pair, native acceptance (so that all answers are the same), batch 1, four arms.  Per
task the bandit by the arm that is best in hindsight; on a stream that mixes text that repeats
itself with fresh text, by the single arm that is best over all of it.
"""

from __future__ import annotations

import random
from typing import Any, cast

from blocks import (
    MAX_NEW_TOKENS,
    Method,
    Pair,
    bar,
    parsed,
    parser,
    ratio,
    run_blocks,
    save,
    shown,
    timed,
    total,
)
from multilevel import repeating

from fly.demo.problems import Kind, heldout
from fly.engine import Request

SEED = 913
ARMS: list[dict[str, Any]] = [
    {"drafter": "none"},
    {"drafter": "model", "k": 6},
    {"drafter": "model", "k": 15},
    {"drafter": "suffix", "k": 15},
]
BARS = {"arithmetic": 0.95, "code": 0.95, "repeating": 0.95, "stream": 1.1}
BANDIT = "bandit"


def arm_name(arm: dict[str, Any]) -> str:
    """As the bandit calls it."""
    return f"{arm['drafter']}:k={arm['k']}" if "k" in arm else str(arm["drafter"])


def settings_of(arm: dict[str, Any]) -> dict[str, Any]:
    """An arm on its own."""
    if arm["drafter"] == "none":
        return {"use_sd": False}
    return {"drafter": arm["drafter"], "spd_k": arm["k"], "draft_length": "fixed"}


def method(pair: Pair, **settings: Any) -> Method:
    """A decoder over requests, which name their task."""
    decoder = pair.decoder(1, acceptance="native", **settings)
    return timed(lambda asked: [result for _, result in sorted(decoder.decode(asked))])


def draw(pair: Pair, task: Any, count: int) -> list[Request]:
    """Prompts of one task, or of all by turns."""
    if task == "stream":
        parts = [draw(pair, name, count // 2) for name in ("arithmetic", "repeating")]
        mixed = [asked for part in parts for asked in part]
        random.Random(SEED).shuffle(mixed)
        return mixed
    if task == "repeating":
        texts = repeating(count)
    else:
        texts = [problem.prompt for problem in heldout(cast(Kind, task), count, SEED)]
    return [Request(tuple(pair.encode(text)), MAX_NEW_TOKENS, key=task) for text in texts]


def experiment(pair: Pair, task: str, count: int, num_blocks: int) -> dict[str, Any]:
    """All arms alone and the bandit, over the same prompts."""
    methods = {arm_name(arm): method(pair, **settings_of(arm)) for arm in ARMS}
    fixed = list(methods)
    methods[BANDIT] = method(pair, drafter="bandit", drafter_settings={"arms": ARMS})
    asked = draw(pair, task, count)
    blocks = run_blocks(methods, asked, num_blocks)
    seconds = {name: total(blocks, name).seconds for name in methods}
    best = min(fixed, key=seconds.__getitem__)
    return {
        "prompts": len(asked),
        "tokens_per_s": {name: total(blocks, name).tokens_per_s for name in methods},
        "baseline": best,
        "ratio": ratio(blocks, BANDIT, best),
        "regret_share": 1 - seconds[best] / seconds[BANDIT],
    }


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "bandit.json")
    options.add_argument("--prompts", type=int, default=48, help="of every task")
    options.add_argument("--blocks", type=int, default=8)
    options.add_argument("--only", nargs="+", default=list(BARS), choices=list(BARS))
    arguments = parsed(options)
    pair = Pair()
    saved: dict[str, object] = {"arms": ARMS}
    for task in arguments.only:
        found = bar(experiment(pair, task, arguments.prompts, arguments.blocks), BARS[task])
        print(f"{task}: {shown(found)} of {found['baseline']}; {found['tokens_per_s']}", flush=True)
        saved[task] = found
        save(arguments.output, saved)


if __name__ == "__main__":
    main()
