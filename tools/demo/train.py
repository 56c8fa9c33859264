"""Train the embedded pair from generated problems: `python -m tools.demo.train --output DIR`.

Takes one to two hours on two CPU cores that know bf16.  A run that was killed goes on with
`--resume`; with the same threads and steps it ends with the same bits.  Scoring executes generated
functions and needs HF_ALLOW_CODE_EVAL=1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from fly.demo import weight_hash
from fly.demo.problems import KINDS, training_stream
from fly.execution import check_permission
from tools.demo.batches import batches
from tools.demo.models import build_model, save_model
from tools.demo.score import score
from tools.demo.step import Trainer
from tools.demo.tokenizer import save_tokenizer, train_tokenizer

TOKENIZER_PROBLEMS = 20_000
WARMUP_STEPS = 50
DECAY_SHARE = 0.4  # of the run, at its end: the learning rate falls linearly to zero
SCORED = 200  # held-out problems of each kind


@dataclass(frozen=True)
class TrainingPlan:
    """How long one model is trained: until its steps or its minutes are used up."""

    name: str  # "target" or "draft"
    shape: str
    batch_size: int
    steps: int
    minutes: float

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is over, 0 to 1."""
        return min(1.0, max(step / self.steps, seconds / (60 * self.minutes)))


def learning_rate(step: int, progress: float) -> float:
    """Share of the full learning rate: warm-up, plateau, linear decay."""
    return min((step + 1) / WARMUP_STEPS, 1.0, max(0.0, (1 - progress) / DECAY_SHARE))


def train_model(
    plan: TrainingPlan, tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace
) -> None:
    """Train one model, saving it and all that is needed to go on every few minutes."""
    folder = Path(arguments.output) / plan.name
    checkpoint = Path(arguments.output) / f"{plan.name}.checkpoint"
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    model = build_model(plan.shape, len(tokenizer), pad, eos, seed=arguments.seed)
    trainer = Trainer(model, arguments.threads, arguments.fuse)
    step, before = 0, 0.0
    if arguments.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        trainer.load(saved["trainer"])
        step, before = saved["step"], saved["seconds"]
    begin = saved_at = time.monotonic()
    stream = batches(tokenizer, arguments.seed, plan.batch_size, start=step)
    tokens = 0
    while True:
        now = time.monotonic()
        progress = plan.progress(step, before + now - begin)
        if progress >= 1.0 or now - saved_at > 60 * arguments.save_minutes:
            state = {"trainer": trainer.state(), "step": step, "seconds": before + now - begin}
            _save_atomically(state, checkpoint)
            save_model(model, folder)
            save_tokenizer(tokenizer, folder)
            saved_at = now
        if progress >= 1.0:
            _say(f"{plan.name}: {step} steps in {(before + now - begin) / 60:.1f} minutes")
            return
        batch = next(stream)
        loss = trainer.step(batch, learning_rate(step, progress))
        step += 1
        tokens += batch.ids.numel()
        if step % 20 == 0:
            rate = tokens / (time.monotonic() - begin)
            _say(f"{plan.name}: step {step}, {progress:.1%}, loss {loss:.4f}, {rate:.0f} tokens/s")


def main(argv: list[str] | None = None) -> int:
    """Train what the arguments ask for, then print scores and hashes."""
    arguments = _parser().parse_args(argv)
    if arguments.scored:
        check_permission("the score, --scored 0 leaves it out:")
    torch.set_num_threads(1)  # the shards of a batch share out the cores
    set_verbosity_error()
    disable_progress_bar()
    Path(arguments.output).mkdir(parents=True, exist_ok=True)
    problems = islice(training_stream(arguments.seed), arguments.tokenizer_problems)
    tokenizer = train_tokenizer(problem.prompt + problem.solution for problem in problems)
    shapes = ("tiny", "tiny") if arguments.tiny else ("target", "draft")
    plans = [
        TrainingPlan("target", shapes[0], 32, arguments.steps_target, arguments.minutes_target),
        TrainingPlan("draft", shapes[1], 64, arguments.steps_draft, arguments.minutes_draft),
    ]
    for plan in plans:
        if arguments.only in (None, plan.name):
            train_model(plan, tokenizer, arguments)
            folder = Path(arguments.output) / plan.name
            model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
            for kind in KINDS if arguments.scored else ():
                share = score(model, tokenizer, kind, arguments.scored)
                _say(f"{plan.name}: {share:.1%} of {arguments.scored} held-out {kind} problems")
            _say(f"{plan.name}: sha256 {weight_hash(folder)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.demo.train", description=__doc__)
    parser.add_argument("--output", required=True, help="folder for target/ and draft/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-target", type=int, default=3000)
    parser.add_argument("--steps-draft", type=int, default=3000)
    parser.add_argument("--minutes-target", type=float, default=90.0, help="stop earlier than that")
    parser.add_argument("--minutes-draft", type=float, default=30.0)
    parser.add_argument("--only", choices=("target", "draft"), help="train one of the two")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--fuse", action="store_true", help="compile (faster; needs a C++ compiler)"
    )
    parser.add_argument("--scored", type=int, default=SCORED, help="held-out problems per kind")
    parser.add_argument("--tokenizer-problems", type=int, default=TOKENIZER_PROBLEMS)
    parser.add_argument("--tiny", action="store_true", help="minute models, to try the machinery")
    return parser


def _save_atomically(state: dict[str, object], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
