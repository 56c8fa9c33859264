"""How many held-out problems a model solves, decoding greedily."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from fly.demo.problems import Kind, Problem, heldout

MAX_NEW_TOKENS = 192
BATCH_SIZE = 64
TIME_LIMIT_S = 10.0  # of one program
SCORE_SEED = 7  # other problems than the tasks' (they may overlap in code, which has few)


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, kind: Kind, count: int
) -> float:
    """Return the share of `count` held-out problems solved, 0 to 1."""
    problems = heldout(kind, count, seed=SCORE_SEED)
    solutions = complete(model, tokenizer, [problem.prompt for problem in problems])
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(solved, problems, solutions)) / count


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


def solved(problem: Problem, solution: str) -> bool:
    """Whether the final number is right, or the function passes its test in its own process."""
    if problem.kind == "arithmetic":
        return solution.rpartition("####")[2].strip() == problem.answer
    program = f"{problem.prompt}{solution}\n{problem.test}\ncheck({problem.entry_point})\n"
    try:
        run = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0
