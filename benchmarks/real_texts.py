"""What loosening does to the texts of a real model without a second one: `python
benchmarks/real_texts.py` decodes twenty chat prompts with SmolLM2-135M-Instruct, natively and with
FLy, and counts texts that differ from the target's own and texts that recite the system prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blocks import parsed, parser, save
from chat import PROMPTS, encode
from smollm2 import FILE, load

from fly.config import FLyConfig
from fly.engine import Result, SpeculativeDecoder, Statistics

ASKED = PROMPTS[:20]
SYSTEM = "You are a helpful assistant. Answer briefly, and only what was asked."
RECITED = 8  # consecutive tokens of the system prompt that make a recital
FLY = {"acceptance": "fly", "spd_k": 10, "win_len": 4}
SELF: dict[str, Any] = {"drafter": "self", **FLY}
COPIED = {"loosen_copied": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "self, layers": {**SELF, "drafter_settings": {"keep": 0.8, "calibration_tokens": 128}},
    "self, int8": {**SELF, "drafter_settings": {"how": "int8"}},
    "ngram": {"drafter": "ngram", **FLY},
    "ngram, loosen_copied": {"drafter": "ngram", **FLY, **COPIED},
    "suffix": {"drafter": "suffix", **FLY},
    "suffix, loosen_copied": {"drafter": "suffix", **FLY, **COPIED},
    "retrieval": {"drafter": "retrieval", **FLY},
    "retrieval, loosen_copied": {"drafter": "retrieval", **FLY, **COPIED},
}


def recites(ids: Sequence[int], system: Sequence[int]) -> bool:
    """Whether an answer holds RECITED consecutive tokens of the system prompt."""
    parts = {tuple(system[at : at + RECITED]) for at in range(len(system) - RECITED + 1)}
    return any(tuple(ids[at : at + RECITED]) in parts for at in range(len(ids) - RECITED + 1))


def describe(
    results: Sequence[Result], own: Sequence[Result], system: Sequence[int]
) -> dict[str, Any]:
    """One configuration's row."""
    counts = sum((result.statistics for result in results), Statistics())
    pairs = list(zip(results, own, strict=True))
    return {
        "loose_share": counts.metrics()["loose_share"],
        "acceptance_rate": counts.metrics()["acceptance_rate"],
        "texts": len(results),
        "different": sum(one.token_ids != other.token_ids for one, other in pairs),
        "reciting": sum(recites(result.token_ids, system) for result in results),
        "answers": {name: result.text for name, result in zip(ASKED, results, strict=True)},
    }


def main() -> None:
    """Decode, print and save."""
    options = parser(__doc__, "real_texts.json", threads=2)
    options.add_argument("--tokens", type=int, default=64)
    arguments = parsed(options)
    model, tokenizer = load()
    prompts = [encode(tokenizer, prompt, SYSTEM) for prompt in ASKED]
    system = tokenizer(SYSTEM, add_special_tokens=False).input_ids
    plain = SpeculativeDecoder(model, None, tokenizer, FLyConfig(use_sd=False), batch_size=8)
    own = plain.generate(prompts, max_new_tokens=arguments.tokens)
    rows = {"target": describe(own, own, system)}
    for name, settings in CONFIGS.items():
        decoder = plain.with_config(FLyConfig(**settings))
        results = decoder.generate(prompts, max_new_tokens=arguments.tokens)
        row = rows[name] = describe(results, own, system)
        print(name, {key: value for key, value in row.items() if key != "answers"}, flush=True)
    report = {"model": FILE, "tokens": arguments.tokens, "settings": CONFIGS, "rows": rows}
    save(arguments.output, report, embedded=False)


if __name__ == "__main__":
    main()
