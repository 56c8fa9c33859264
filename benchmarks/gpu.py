"""One GPU in at most eight minutes: `python benchmarks/gpu.py`; `--smoke` tries it on a CPU.

Random weights of Llama 3's shapes; nothing is downloaded.  The draft is the target's first layers,
and what the other layers add is scaled until the draft agrees with a share of the target's tokens:
so acceptance, and with it speed, is as with a real pair, and texts mean nothing.  One read of the
weights is measured first; every other time stands beside it.  What fails, or does not fit into the
time, is written down with its reason, and the rest goes on.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from blocks import parser, save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from fly.config import FLyConfig
from fly.demo import TARGET_PATH
from fly.engine import SpeculativeDecoder, Statistics
from fly.engine.model.attention import is_accelerated
from fly.engine.model.capture import SWITCH, CapturedModel
from fly.engine.model.slots import SlotModel
from fly.engine.self_draft.model_view import without_layers

K, AGREEMENT, SEED = 8, 0.8, 7
EAGER, CAPTURED, COMPILED = "eager", "captured", "compiled and captured"
LLAMA = {"vocab_size": 128_256, "num_attention_heads": 32, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {  # config, and layers of the draft
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "draft": 3},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "draft": 2},
}
TINY: dict[str, Any] = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64}
TINY |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "draft": 1}


@dataclass
class Plan:
    """Sizes of a run, and the time that is left."""

    device: torch.device
    dtype: torch.dtype
    shapes: dict[str, dict[str, Any]]
    batches: tuple[int, ...] = (1, 8, 32)
    compiled_batches: tuple[int, ...] = (1, 8, 32)
    prompt_len: int = 512
    new_tokens: int = 128
    repeats: int = 10
    compiler: str = "inductor"
    vocab_size: int = LLAMA["vocab_size"]
    seconds: float = 470.0  # of the whole run; loading torch takes the rest of the eight minutes
    begin: float = field(default_factory=time.perf_counter)

    @classmethod
    def smoke(cls) -> Plan:
        """A minute on a CPU, half of it for tracing steps."""
        return cls(
            torch.device("cpu"),
            torch.float32,
            {"tiny": TINY},
            batches=(1, 3),
            compiled_batches=(3,),
            prompt_len=8,
            new_tokens=8,
            repeats=2,
            compiler="eager",
            vocab_size=1000,
            seconds=110.0,
        )

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self.begin)

    @property
    def last(self) -> dict[str, Any]:
        """The shape that comes last."""
        return list(self.shapes.values())[-1]

    def attempt(self, run: Callable[[], Any]) -> Any:
        """What `run` finds, or why there is nothing."""
        if self.left <= 0:
            return {"skipped": "no time left"}
        try:
            return run()
        except Exception as error:  # noqa: BLE001  one method's failure must not cost the run
            return {"failed": f"{type(error).__name__}: {error}"[:300]}
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def seconds_of(self, run: Callable[[], Any], warm_up: int = 3) -> float:
        """Median of several calls, after as many as compiling or capturing may take."""
        times = []
        for number in range(warm_up + self.repeats):
            self.wait()
            begin = time.perf_counter()
            run()
            self.wait()
            if number >= warm_up:
                times.append(time.perf_counter() - begin)
        return sorted(times)[len(times) // 2]

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_target(plan: Plan, shape: dict[str, Any]) -> PreTrainedModel:
    """A random target."""
    sizes = LLAMA | {name: size for name, size in shape.items() if name != "draft"}
    config = LlamaConfig(**sizes, max_position_embeddings=8192, tie_word_embeddings=False)
    config.eos_token_id = None  # every answer is as long as asked for
    torch.manual_seed(SEED)
    with plan.device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=plan.dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.eval()
    return model


@torch.inference_mode()
def scale_rest(plan: Plan, target: PreTrainedModel, draft: PreTrainedModel, kept: int) -> float:
    """Scale what the layers after the draft's add to the target, until draft and target agree on
    AGREEMENT of the tokens of a random text; the share found.
    """
    model: Any = target
    outputs = [
        weights
        for layer in model.model.layers[kept:]
        for weights in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight)
    ]
    ids = torch.randint(model.config.vocab_size, (1, max(64, plan.prompt_len)), device=plan.device)
    own = draft(ids).logits.argmax(-1)
    low, high, scale = 0.0, 1.0, 1.0
    share = 0.0
    for _ in range(8):
        middle = (low + high) / 2
        for weights in outputs:
            weights.mul_(middle / scale)
        scale = middle
        share = float((model(ids).logits.argmax(-1) == own).float().mean())
        low, high = (middle, high) if share > AGREEMENT else (low, middle)
    return share


def bandwidth(plan: Plan, model: PreTrainedModel) -> dict[str, float]:
    """One read of all weights."""
    weights = [each for each in model.parameters() if each.dim() > 1]
    num_bytes = sum(each.numel() * each.element_size() for each in weights)
    seconds = plan.seconds_of(lambda: [each.amax() for each in weights])
    return {"bytes": num_bytes, "seconds": seconds, "gb_per_s": num_bytes / seconds / 1e9}


def served(plan: Plan, model: PreTrainedModel, way: str) -> SlotModel:
    """The model as eager, compiled or captured forwards serve it."""
    if way == EAGER:
        return SlotModel(model)
    if plan.device.type != "cuda":  # a CPU has no graphs; the same steps, called again
        graphs: Any = type("Again", (), {"capture": staticmethod(lambda run: run)})()
        captured = CapturedModel(model, graphs=graphs)
    else:
        captured = CapturedModel(model)
    if way == COMPILED:
        step: Any = torch.compile(captured.captured.step, backend=plan.compiler, dynamic=True)
        captured.captured.step = step
    return captured


@torch.inference_mode()
def forwards(plan: Plan, model: PreTrainedModel, *ways: str) -> dict[str, Any]:
    """Milliseconds of extending by one token and by a proposal."""
    found: dict[str, Any] = {}
    for way in ways:
        ready = served(plan, model, way)
        for rows in plan.compiled_batches if way == COMPILED else plan.batches:
            for n in (1, K + 1):
                run = partial(forward, plan, ready, rows, n)
                found[f"{way}, batch {rows}, n {n}"] = plan.attempt(run)
    return found


def forward(plan: Plan, ready: SlotModel, rows: int, n: int) -> dict[str, Any]:
    """Milliseconds of one forward behind a prompt, and how far its logits are from eager ones."""
    context = prompts(plan, ready.model, rows).tolist()
    ids = torch.full((rows, n), 5, device=plan.device)
    starts = [plan.prompt_len] * rows
    ready.reserve(max(plan.batches), plan.prompt_len + 64)
    ready.prefill(context, 0)
    found: dict[str, Any] = {"ms": 1e3 * plan.seconds_of(lambda: ready.extend(ids, starts))}
    if isinstance(ready, CapturedModel):
        eager = SlotModel(ready.model)
        eager.prefill(context, 0)
        want = eager.extend(ids, starts).float()
        difference = (ready.extend(ids, starts).float() - want).square().mean().sqrt()
        found |= {"off_by": float(difference / want.std()), "replays": ready.captured.num_replays}
    return found


@contextmanager
def graphs_off(is_off: bool) -> Iterator[None]:
    """Decode eagerly within."""
    before = os.environ.pop(SWITCH, None)
    if is_off:
        os.environ[SWITCH] = "off"
    try:
        yield
    finally:
        os.environ.pop(SWITCH, None)
        if before is not None:
            os.environ[SWITCH] = before


def ours(
    plan: Plan, pair: Sequence[PreTrainedModel], rows: int, *, eager: bool, plain: bool
) -> dict[str, Any]:
    """Our engine, natively, with the draft or without."""
    tokenizer: Any = AutoTokenizer.from_pretrained(TARGET_PATH)
    drafter: dict[str, Any] = {"use_sd": False} if plain else {"acceptance": "native", "spd_k": K}
    with graphs_off(eager):
        decoder = SpeculativeDecoder(
            pair[0],
            None if plain else pair[1],
            tokenizer,
            FLyConfig(**drafter, draft_length="fixed"),
            batch_size=rows,
            share_prefixes=False,
        )
        asked = prompts(plan, pair[0], rows).tolist()
        decoder.generate(asked, max_new_tokens=plan.new_tokens)
        plan.wait()
        begin = time.perf_counter()
        results = decoder.generate(asked, max_new_tokens=plan.new_tokens)
        plan.wait()
        seconds = time.perf_counter() - begin
    pooled = sum((result.statistics for result in results), Statistics())
    found = rate(sum(len(result.token_ids) for result in results), seconds)
    per_round = pooled.emitted / pooled.rounds if pooled.rounds else 1.0
    return found | {"served": decoder.served, "tokens_per_round": per_round}


def generated(
    plan: Plan, pair: Sequence[PreTrainedModel], rows: int, **options: Any
) -> dict[str, Any]:
    """Transformers' own `generate`; the first call compiles."""
    model: Any = pair[0]
    ids = prompts(plan, model, rows)
    options |= {"attention_mask": torch.ones_like(ids), "do_sample": False}
    options |= {"max_new_tokens": plan.new_tokens, "min_new_tokens": plan.new_tokens}
    model.generate(ids, **options)
    plan.wait()
    begin = time.perf_counter()
    output = model.generate(ids, **options)
    plan.wait()
    return rate(output[:, ids.shape[1] :].numel(), time.perf_counter() - begin)


def prompts(plan: Plan, model: PreTrainedModel, rows: int) -> Tensor:
    """Random ones of one length."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (rows, plan.prompt_len)
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(plan.device)


def rate(num_tokens: int, seconds: float) -> dict[str, float]:
    """Whole wall time, prefill included."""
    return {"tokens": num_tokens, "seconds": seconds, "tokens_per_s": num_tokens / seconds}


def end_to_end(plan: Plan, pair: Sequence[PreTrainedModel]) -> dict[str, Any]:
    """Tokens per second of all methods, at every batch."""
    found: dict[str, Any] = {}
    for rows in plan.batches:
        native = partial(ours, plan, pair, rows, plain=False)
        plain = partial(ours, plan, pair, rows, plain=True)
        usual = partial(generated, plan, pair, rows)
        methods: dict[str, Callable[[], Any]] = {
            "native": partial(native, eager=False),
            "generate": usual,
            "native, eager": partial(native, eager=True),
            "plain": partial(plain, eager=False),
            "plain, eager": partial(plain, eager=True),
            "generate, static cache": partial(usual, cache_implementation="static"),
        }
        if rows == 1:
            methods["assisted"] = partial(usual, assistant_model=pair[1])
        for name, run in methods.items():
            found[f"{name}, batch {rows}"] = plan.attempt(run)
    return found


def acceptance(plan: Plan) -> dict[str, Any]:
    """GB/s of reading logits [16, K+1, V] for their argmax, top-3 entropy and log-sum-exp: torch,
    and the fused kernel where it is there."""
    logits = torch.randn(16, K + 1, plan.vocab_size, device=plan.device, dtype=plan.dtype)
    num_bytes = logits.numel() * logits.element_size()

    def reference() -> tuple[Tensor, Tensor]:
        log_probs = logits.float().log_softmax(-1)
        return log_probs.topk(3).values, logits.argmax(-1)

    def kernel() -> dict[str, float]:
        module = importlib.import_module("fly.acceptance.fused").kernel_for(logits)
        if module is None:
            raise RuntimeError(f"no kernel serves {plan.dtype} on {plan.device.type}")
        return measured(lambda: module.summarise(logits))

    def measured(run: Callable[[], Any]) -> dict[str, float]:
        seconds = plan.seconds_of(run)
        return {"ms": seconds * 1e3, "gb_per_s": num_bytes / seconds / 1e9}

    ways: dict[str, Callable[[], Any]] = {
        "one read": lambda: measured(lambda: logits.amax(-1)),
        "torch": lambda: measured(reference),
        "fused kernel": kernel,
    }
    return {name: plan.attempt(run) for name, run in ways.items()}


def measure(plan: Plan) -> dict[str, Any]:
    """The whole report."""
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "cpu",
        "settings": {"k": K, "prompt_len": plan.prompt_len, "new_tokens": plan.new_tokens},
        "grouped_attention": is_accelerated(plan.device),
        "acceptance": acceptance(plan),
    }
    for name, shape in plan.shapes.items():
        report[name] = plan.attempt(partial(of_shape, plan, shape))
    return report | {"seconds": time.perf_counter() - plan.begin}


def of_shape(plan: Plan, shape: dict[str, Any]) -> dict[str, Any]:
    """All figures of one target with its draft."""
    target = make_target(plan, shape)
    draft = without_layers(target, range(shape["draft"], shape["num_hidden_layers"]))
    share = scale_rest(plan, target, draft, shape["draft"])
    return {
        "one_read": {"target": bandwidth(plan, target), "draft": bandwidth(plan, draft)},
        "agreement": share,
        "end_to_end": end_to_end(plan, (target, draft)),
        "forwards": {
            "target": forwards(plan, target, EAGER, CAPTURED),
            "draft": forwards(plan, draft, EAGER, CAPTURED),
        },
        # Last, and of the last target alone: compiling takes what time is left.
        "compiled": forwards(plan, target, COMPILED) if shape == plan.last else {},
    }


def main() -> None:
    """Run, print and save."""
    options = parser(__doc__, "gpu.json")
    options.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU")
    arguments = options.parse_args()
    if arguments.smoke:
        torch.set_num_threads(arguments.threads)
        plan = Plan.smoke()
    elif torch.cuda.is_available():
        plan = Plan(torch.device("cuda", 0), torch.bfloat16, SHAPES)
    else:
        raise SystemExit("no CUDA device is here; --smoke tries the command on the CPU")
    report = measure(plan)
    save(arguments.output, report, embedded=False)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
