"""Against vLLM on a CPU: `python benchmarks/vllm_cpu.py --vllm_python PATH --plugin FOLDER`.

Plain, native and FLy on the embedded pair by both engines, one batch a block, one thread each.
Every engine has a process of its own, in the environment that suits it; they answer the same
prompts by turns, in an order that rotates.  Our plain decoding runs in a second process, too (A/A).
Whole wall time with prefill; compiling and warming up come before the first block.  vLLM's prefix
cache is off, as it would keep prompts from call to call; ours shares prefixes inside a call alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers import Loaded, Worker, serve

if TYPE_CHECKING:
    from blocks import Block, Method, Pair, Prompts

SEED, K, MAX_LENGTH = 808, 15, 1024
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"use_sd": False},
    "native": {"acceptance": "native"},
    "fly": {},
}
BARS = {"plain": 0.95, "native": 1.1, "fly": 1.15}  # ours by vLLM's
AGAIN = "ours plain again"
ROOT = Path(__file__).resolve().parent.parent
OURS, VLLM = "ours", "vllm"
# What puts our rules into vLLM: `fly_set` takes a rule's settings, or None for vLLM's own, and
# `fly_stats` tells the rule.
EXTENSION = "fly_vllm.worker.FlyWorkerExtension"
VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # another process would wait in a loop
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# With vLLM's packages, and what it wants to be preloaded where it speculates.
OPENMP = "lib/libiomp5.so"
RECORDED = ("OMP_NUM_THREADS", "LD_PRELOAD", *VLLM_ENVIRONMENT)


def load_ours(given: Mapping[str, Any]) -> Loaded:
    """A worker with our engine."""
    import torch
    from blocks import MAX_NEW_TOKENS, Pair, timed

    from fly.workbench import environment

    torch.set_num_threads(1)
    pair = Pair(spd_k=K, compile="on")
    decoders = {name: pair.decoder(given["batch"], **METHODS[name]) for name in given["methods"]}

    def answer(question: tuple[str, list[list[int]]]) -> object:
        name, prompts = question
        decode = timed(lambda own: decoders[name].generate(own, max_new_tokens=MAX_NEW_TOKENS))
        done = decode(prompts)
        return {"answers": done.answers, "seconds": done.seconds}

    packed = {name: decoder.packed for name, decoder in decoders.items()}
    return environment.describe() | {"packed": packed}, answer


def load_vllm(given: Mapping[str, Any]) -> Loaded:
    """A worker with vLLM: one engine for plain decoding, or one that speculates."""
    import torch

    vllm: Any = importlib.import_module("vllm")
    options = {
        "model": given["target"],
        "dtype": "float32",
        "max_model_len": MAX_LENGTH,
        "max_num_seqs": given["batch"],
        "enable_prefix_caching": False,
        "seed": 0,
    }
    if given["speculates"]:
        options["speculative_config"] = {
            "method": "draft_model",
            "model": given["draft"],
            "num_speculative_tokens": K,
        }
    if given["has_rules"]:
        options["worker_extension_cls"] = EXTENSION
    options |= given["options"]
    engine: Any = vllm.LLM(**options)
    params = vllm.SamplingParams(temperature=0, max_tokens=given["max_new_tokens"])

    def answer(question: tuple[str, list[list[int]]]) -> object:
        name, prompts = question
        if given["has_rules"]:
            rule = METHODS[name] if name == "fly" else None
            engine.collective_rpc("fly_set", args=(rule,))
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        begin = time.perf_counter()
        outputs = engine.generate(asked, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
        answers = [list(one.outputs[0].token_ids) for one in outputs]
        return {"answers": answers, "seconds": seconds}

    told = {
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch", "transformers")
        },
        "options": options,
        "environment": {name: os.environ.get(name) for name in RECORDED},
    }
    if given["has_rules"]:
        engine.collective_rpc("fly_set", args=(METHODS["fly"],))
        told["rule"] = engine.collective_rpc("fly_stats")[0]["rule"]
    return told, answer


LOADERS = {OURS: load_ours, VLLM: load_vllm}


def start(python: str, engine: str, given: Mapping[str, Any], plugin: Path | None = None) -> Worker:
    """A worker process with an engine."""
    paths = [str(ROOT)] if plugin is None else [str(plugin.resolve()), str(ROOT)]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    if engine == VLLM:
        openmp = Path(python).absolute().parent.parent / OPENMP
        environment |= VLLM_ENVIRONMENT | ({"LD_PRELOAD": str(openmp)} if openmp.exists() else {})
    command = [python, __file__, "--serve", engine, json.dumps(given)]
    return Worker(command, environment, Path.cwd())


def asked(worker: Worker, name: str) -> Method:
    """A worker's method."""
    from blocks import Timed

    def run(prompts: Prompts) -> Timed:
        done = worker.ask([name, prompts])
        return Timed(done["answers"], done["seconds"])

    return run


def summary(
    pair: Pair, prompts: Prompts, blocks: Sequence[Block], names: Sequence[str]
) -> dict[str, Any]:
    """Ratios with their bars, and how many texts are equal."""
    from blocks import bar, dealt, interval, ratio, same_texts, total

    ratios: dict[str, Any] = {}
    for name in names:
        one = {"ratio": ratio(blocks, f"{OURS} {name}", f"{VLLM} {name}")}
        ratios[name] = bar(one, BARS[name])
    ratios["A/A"] = {"ratio": ratio(blocks, AGAIN, f"{OURS} plain")}
    for engine in (OURS, VLLM):
        for name in names[1:]:
            one = {"ratio": ratio(blocks, f"{engine} {name}", f"{engine} plain")}
            ratios[f"{engine} {name} / plain"] = one
    for name, found in ratios.items():
        print(f"{name}: {interval(found['ratio'])}", found.get("bar", ""), flush=True)
    order = [prompt for block in dealt(prompts, len(blocks)) for prompt in block]
    texts = {}
    for name in names:
        own, other = (total(blocks, f"{engine} {name}").answers for engine in (OURS, VLLM))
        texts[name] = same_texts(pair.target, order, own, other)
    print("texts, ours and vLLM's:", texts, flush=True)
    speeds = {name: total(blocks, name).tokens_per_s for name in blocks[0]}
    return {"ratios": ratios, "texts": texts, "tokens_per_s": speeds}


def main() -> None:
    """Measure, print and save."""
    from blocks import MAX_NEW_TOKENS, Pair, parsed, parser, run_blocks, save, tokens_and_seconds
    from cpu import draw_problems

    from fly.demo import DRAFT_PATH, TARGET_PATH

    options = parser(__doc__, "vllm_cpu.json")
    options.add_argument("--vllm_python", required=True, help="of an environment with vLLM")
    options.add_argument("--plugin", type=Path, help=f"holds {EXTENSION}; else no FLy in vLLM")
    options.add_argument("--vllm_options", type=json.loads, default={}, help="of vllm.LLM, as JSON")
    options.add_argument("--blocks", type=int, default=12)
    options.add_argument("--batch", type=int, default=32, help="requests at once")
    options.add_argument("--prompts", type=int, default=32, help="of a block")
    arguments = parsed(options)
    names = [name for name in METHODS if name != "fly" or arguments.plugin is not None]
    if arguments.plugin is None:
        print("no --plugin: FLy is left out")
    theirs = {
        "batch": arguments.batch,
        "target": str(TARGET_PATH),
        "draft": str(DRAFT_PATH),
        "max_new_tokens": MAX_NEW_TOKENS,
        "options": arguments.vllm_options,
    }
    own = {"batch": arguments.batch, "methods": names}
    plain = theirs | {"speculates": False, "has_rules": False}
    speculative = theirs | {"speculates": True, "has_rules": arguments.plugin is not None}
    workers = {
        OURS: start(sys.executable, OURS, own),
        AGAIN: start(sys.executable, OURS, own | {"methods": ["plain"]}),
        "vllm plain": start(arguments.vllm_python, VLLM, plain),
        "vllm": start(arguments.vllm_python, VLLM, speculative, arguments.plugin),
    }
    methods = {AGAIN: asked(workers[AGAIN], "plain")}
    for name in names:
        methods[f"{OURS} {name}"] = asked(workers[OURS], name)
        methods[f"{VLLM} {name}"] = asked(workers.get(f"vllm {name}", workers[VLLM]), name)
    pair, count = Pair(), arguments.blocks * arguments.prompts
    prompts = [pair.encode(problem.prompt) for problem in draw_problems(count, SEED)]
    blocks = run_blocks(methods, prompts, arguments.blocks, arguments.prompts)
    report = summary(pair, prompts, blocks, names) | {
        "batch": arguments.batch,
        "spd_k": K,
        "max_new_tokens": MAX_NEW_TOKENS,
        "engines": {name: worker.loaded for name, worker in workers.items()},
        "blocks": tokens_and_seconds(blocks),
    }
    save(arguments.output, report)
    for worker in workers.values():
        worker.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(lambda: LOADERS[sys.argv[2]](json.loads(sys.argv[3])))
    else:
        main()
