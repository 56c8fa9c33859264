"""Score of a model on held-out problems, decoding greedily."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from fly.demo.problems import Kind, heldout, solved

MAX_NEW_TOKENS = 192
BATCH_SIZE = 64
SCORE_SEED = 7  # other problems than the tasks' (they may overlap in code, which has few)


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, kind: Kind, count: int
) -> float:
    """Return the share of `count` held-out problems solved, 0 to 1."""
    problems = heldout(kind, count, seed=SCORE_SEED)
    solutions = complete(model, tokenizer, [problem.prompt for problem in problems])
    return sum(solved(problems, solutions)) / count


def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> list[str]:
    """Continue every prompt greedily, in batches padded on the left."""
    tokenizer.padding_side = "left"
    generate = cast(Any, model).generate  # its annotation asks for a type that no model has
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = tokenizer(prompts[start : start + BATCH_SIZE], padding=True, return_tensors="pt")
        with torch.inference_mode():
            ids = generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
            )
        new = ids[:, batch.input_ids.shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts
