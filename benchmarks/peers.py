"""Other ways to decode the embedded pair, as methods.  `generate` with a compiled static cache, and
FlashSpec (PyPI; `pip install --no-deps --target FOLDER flashspec==0.3.1`)."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from blocks import MAX_NEW_TOKENS, Answers, Method, Pair, Prompts, Timed, plain_generate
from transformers import CompileConfig

# Drafted tokens of a round; None lets its bandit choose between ways to draft, its default.
GAMMAS = {
    "flashspec-auto": None,
    "flashspec-g4": 4,
    "flashspec-g8": 8,
    "flashspec-g15": 15,
}


def static_generate(pair: Pair, batch_size: int) -> Method:
    """`generate` whose forwards of one token are compiled, over a static cache.

    It compiles for a cache of the longest prompt so far, and for each number of rows: the longest
    prompts, in a whole batch, have to come first.
    """
    compiling: Any = CompileConfig(fullgraph=False, dynamic=None, mode="default")
    compiling._compile_all_devices = True  # else a CPU is left out
    return plain_generate(pair, batch_size, cache_implementation="static", compile_config=compiling)


def flashspec_methods(pair: Pair, folder: Path) -> tuple[dict[str, Method], str]:
    """FlashSpec at batch 1, with the draft model and several gammas; and its version."""
    sys.path.append(str(folder))
    logging.getLogger("flashspec").setLevel(logging.ERROR)
    methods = {name: flashspec(pair, gamma) for name, gamma in GAMMAS.items()}
    return methods, importlib.metadata.version("flashspec")


def flashspec(pair: Pair, gamma: int | None) -> Method:
    """FlashSpec with the draft model, one prompt at a time."""
    package: Any = importlib.import_module("flashspec")
    engines: Any = importlib.import_module("flashspec.engine")
    settings: dict[str, Any] = {"drafter_strategy": "auto"}
    sampling = package.SamplingConfig(temperature=0.0)
    if gamma is not None:
        settings = {"drafter_strategy": "bandit", "bandit": package.BanditConfig(n_arms=1)}
        sampling = package.SamplingConfig(temperature=0.0, gamma=gamma)
    config = package.FlashSpecConfig(
        sampling=sampling,
        device="cpu",
        dtype="float32",
        compile=False,
        eos_token_ids=(pair.tokenizer.eos_token_id,),
        max_new_tokens=MAX_NEW_TOKENS,
        **settings,
    )
    place = torch.device("cpu"), torch.float32
    draft = engines.HuggingFaceDrafter(
        "draft", "cpu", torch.float32, temperature=0.0, model=pair.draft
    )
    engine = package.SpeculativeEngine(
        config, [draft], engines.TargetModel("target", *place, model=pair.target)
    )

    def run(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        answers: Answers = []
        for prompt in prompts:
            found = engine.generate(torch.tensor([prompt]), max_new_tokens=MAX_NEW_TOKENS)
            padded = found.output_ids[0].tolist()
            answers.append([token for token in padded if token >= 0])
        return Timed(answers, time.perf_counter() - begin)

    return run
