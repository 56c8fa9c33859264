"""Time and memory of acceptance over large vocabularies, in units of one read of the logits.

Logits are random, the proposals 85 % their argmaxes; what is timed goes from the target's logits to
the tokens on the host, without any model.  One read is a sum over the same bytes as float32: the
fastest pass that torch has, and of bfloat16 one that converts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from blocks import Block, Prompts, Timed, interleave, interval, parsed, parser, save, time_ratio
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fly.acceptance import RejectionSampling, Rule, Scores, leading_true, rules
from fly.acceptance.rejection import SoftLines

ROWS, K, MATCHES = 16, 15, 0.85
VOCABULARIES = (32_000, 128_256, 256_000)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EACH_TIME = 2**26  # logits that a method goes over each time it is timed
READ, AGAIN = "one read", "one read (again)"
MOST_READS = 7.0  # FLy on a CPU with 128,256 tokens in float32
BAR = (128_256, "float32", "fly")
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "native": ("native", {}),
    "fly": ("fly", {}),
    "fly, entropy full": ("fly", {"entropy": "full", "threshold": 0.6}),
    "typical": ("typical", {}),
}


class Case:
    """One table of logits [16, 16, V], proposals for it, and what samples from it."""

    def __init__(self, vocab_size: int, dtype: torch.dtype, device: str) -> None:
        """Draw them."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(ROWS, K + 1, vocab_size, generator=generator) * 2
        best = logits[:, :-1].argmax(-1)
        others = torch.randint(vocab_size, best.shape, generator=generator)
        is_match = torch.rand(best.shape, generator=generator) < MATCHES
        ids = torch.where(is_match, best, others)
        draws = torch.rand(ROWS, K + 1, 2, generator=generator, dtype=torch.float64)
        q = (logits[:, :-1] * 0.9).softmax(-1)
        self.logits, self.ids = logits.to(device, dtype), ids.to(device)
        self.q, self.draws = q.to(device), draws.to(device)
        self.lengths = torch.full((ROWS,), K, device=device)
        self.protected = (torch.arange(vocab_size) < 3).to(device)
        self.is_sampled = torch.ones(ROWS, dtype=torch.bool, device=device)
        self._bytes = self.logits.view(torch.float32)

    def read(self) -> None:
        """Every byte once."""
        self._bytes.sum(-1)

    def decide(self, rule: Rule, *, is_complete: bool = False) -> Tensor:
        """A greedy round's numbers on the host, as the engine takes them."""
        return _numbers(
            rule, Scores(self.logits, self.ids, self.lengths, self.protected), is_complete
        )

    def decide_sampled(self, rule: Rule) -> Tensor:
        """The same of a round in which every row is sampled at temperature 1."""
        final = self.logits.float()
        law = RejectionSampling(SoftLines(final, None), self.q, self.draws, self.is_sampled)
        scores = Scores(
            self.logits, self.ids, self.lengths, self.protected, final, law, draft_probs=self.q
        )
        return _numbers(rule, scores, False)


def _numbers(rule: Rule, scores: Scores, is_complete: bool) -> Tensor:
    scores.is_complete = is_complete
    decision = rule.accept(scores)
    kept = leading_true(decision.accepted)
    own = scores.choice_at(kept, decision.weight)
    columns = [kept[:, None], own[:, None], scores.is_finite[:, None], decision.reason]
    return torch.cat([column.to(torch.int64) for column in columns], 1).cpu()


def methods_of(case: Case) -> dict[str, Callable[[], object]]:
    """All that is timed, by name."""
    found: dict[str, Callable[[], object]] = {READ: case.read, AGAIN: case.read}
    for name, (rule_name, settings) in RULES.items():
        rule = rules.get(rule_name).model_validate(settings)
        found[name] = lambda rule=rule: case.decide(rule)  # type: ignore[misc]
    fly, native = rules.get("fly")(), rules.get("native")()
    found["fly, recorded"] = lambda: case.decide(fly, is_complete=True)
    found["native, sampled"] = lambda: case.decide_sampled(native)
    found["fly, sampled"] = lambda: case.decide_sampled(fly)
    return found


def _timed(run: Callable[[], object], device: str, times: int) -> Callable[[Prompts], Timed]:
    def once(prompts: Prompts) -> Timed:
        begin = time.perf_counter()
        for _ in range(times):
            run()
        if device != "cpu":
            torch.cuda.synchronize()
        return Timed([], time.perf_counter() - begin)

    return once


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most that was held at once beyond what was there before."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    kineto: Any = profiled.profiler
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(case: Case, device: str, num_blocks: int) -> dict[str, Any]:
    """Seconds of every method by those of one read, and its memory."""
    runs = methods_of(case)
    times = max(1, EACH_TIME // case.logits.numel())
    timed = {name: _timed(run, device, times) for name, run in runs.items()}
    interleave(timed, [[]])  # a warm-up
    blocks: list[Block] = [interleave(timed, [[]], turn) for turn in range(num_blocks)]
    size = case.logits.numel() * case.logits.element_size()
    a_a = time_ratio(blocks, AGAIN, READ)
    found: dict[str, Any] = {
        "logits_bytes": size,
        "read_s": min(block[READ].seconds for block in blocks) / times,
        "a_a": a_a,
        "methods": {},
    }
    for name in runs:
        if name not in (READ, AGAIN):
            peak = peak_bytes(runs[name], device)
            found["methods"][name] = {
                "reads": time_ratio(blocks, name, READ),
                "peak_bytes": peak,
                "peak_by_logits": peak / size,
            }
    return found


def show(name: str, found: Mapping[str, Any]) -> None:
    """One case's lines."""
    print(f"{name}: one read {found['read_s'] * 1e3:.1f} ms, A/A {interval(found['a_a'])}")
    for method, one in found["methods"].items():
        memory = f"{one['peak_bytes'] / 2**20:8.1f} MiB"
        print(f"  {method:20} {interval(one['reads']):24} reads, {memory}", flush=True)


def main() -> None:
    """Measure, print and save."""
    options = parser(__doc__, "vocabulary.json")
    options.add_argument("--blocks", type=int, default=15)
    options.add_argument("--device", default="cpu")
    options.add_argument("--vocabularies", type=int, nargs="+", default=list(VOCABULARIES))
    arguments = parsed(options)
    report: dict[str, Any] = {}
    with torch.inference_mode():
        for vocab_size in arguments.vocabularies:
            for name, dtype in DTYPES.items():
                case = Case(vocab_size, dtype, arguments.device)
                found = measure(case, arguments.device, arguments.blocks)
                report[f"{vocab_size}, {name}"] = found
                show(f"V {vocab_size}, {name}", found)
    whole: dict[str, Any] = {"rows": ROWS, "k": K, "matches": MATCHES, "cases": report}
    judged = report.get(f"{BAR[0]}, {BAR[1]}")
    if judged is not None and arguments.device == "cpu":
        high = judged["methods"][BAR[2]]["reads"]["high"]
        whole["bar"] = {"at_most": MOST_READS, "met": high is not None and high <= MOST_READS}
        print(f"fly, {BAR[0]} tokens, {BAR[1]}: at most {MOST_READS} reads: {whole['bar']['met']}")
    save(arguments.output, whole, embedded=False)


if __name__ == "__main__":
    main()
