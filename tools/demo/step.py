"""One optimiser step: bf16 gradients of several shards at once, fp32 weights, Muon and AdamW.

Every shard runs in a Python thread with one core, because threads that meet once a step lose far
less to other programs on the machine than threads that meet in every matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, LlamaForCausalLM

from fly.errors import MissingExtraError
from tools.demo.batches import IGNORED, Batch
from tools.demo.models import bf16_copy

MUON_RATE, ADAM_RATE = 2e-3, 3e-3  # learning rates at the plateau
WEIGHT_DECAY = 0.01
CLIP = 1.0  # norm of the whole gradient


class Trainer:
    """Weights, optimisers and threads of one model in training."""

    def __init__(self, model: LlamaForCausalLM, threads: int, fuse: bool) -> None:
        """Take the fp32 master weights; gradients are taken on a bf16 copy of them.

        Args:
            model: the fp32 weights.
            threads: cores to use; every shard of a batch has one, unless layers are fused.
            fuse: compile the layers (faster, but needs a C++ compiler).
        """
        self.model = model
        self.copy = bf16_copy(model)
        self.copy.set_attn_implementation(ATTENTION)
        if fuse:
            for layer in self.copy.model.layers:
                layer.forward = torch.compile(layer.forward, dynamic=True)
        self.parameters = list(model.parameters())
        # Compiled layers hold the interpreter's lock, so that shards would wait for one another.
        self.shards = 1 if fuse else threads
        self.pool = ThreadPoolExecutor(
            self.shards, initializer=torch.set_num_threads, initargs=(threads // self.shards,)
        )
        self.optimizers = _optimizers(model, threads)

    def step(self, batch: Batch, rate: float) -> float:
        """Take one step at `rate` (0 to 1) of the full learning rates; return the mean loss."""
        total = float(batch.weights.sum())
        parts = (batch.ids, batch.labels, batch.weights)
        shards = zip(*(part.chunk(self.shards) for part in parts), strict=True)
        results = self._together(
            [partial(_gradients, self.copy, Batch(*shard), total) for shard in shards]
        )
        # Summed in a fixed order: a resumed run repeats every bit.
        for index, parameter in enumerate(self.parameters):
            gradient = results[0][1][index].float()
            for _, gradients in results[1:]:
                gradient += gradients[index]
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["full_rate"]
        self._together([optimizer.step for optimizer in self.optimizers])
        with torch.no_grad():
            for bf16, fp32 in zip(self.copy.parameters(), self.parameters, strict=True):
                bf16.copy_(fp32)
        return float(sum(loss for loss, _ in results))

    def state(self) -> dict[str, Any]:
        """Everything that a later run needs to go on."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.model.load_state_dict(state["model"])
        self.copy.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _together(self, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
        return [future.result() for future in [self.pool.submit(task) for task in tasks]]


def _gradients(
    model: LlamaForCausalLM, batch: Batch, total: float
) -> tuple[float, tuple[torch.Tensor, ...]]:
    """Return the shard's share of the weighted mean loss (nats) and its bf16 gradients."""
    # Padding is on the right and attention is causal: no mask is needed.
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    trained = batch.labels != IGNORED
    logits = model.lm_head(hidden[trained]).float()
    losses = functional.cross_entropy(logits, batch.labels[trained], reduction="none")
    loss = (losses * batch.weights[trained]).sum() / total
    return float(loss.detach()), torch.autograd.grad(loss, tuple(model.parameters()))


def _optimizers(model: LlamaForCausalLM, groups: int) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, dealt out to `groups`; AdamW for all the rest."""
    if not hasattr(torch.optim, "Muon"):
        raise MissingExtraError(
            f"training needs torch.optim.Muon, which torch {torch.__version__} does not have",
            fix="install torch 2.9 or newer (using the pair needs no such thing)",
        )
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    chosen = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices[index::groups],
            lr=MUON_RATE,
            weight_decay=WEIGHT_DECAY,
            adjust_lr_fn="match_rms_adamw",
        )
        for index in range(groups)
    ]
    optimizers.append(torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention [B, H, T, D] -> [B, T, H, D] by plain products.

    On short sequences the gradient of the fused CPU kernel takes longer than all the rest.
    """
    length = query.shape[2]
    future = torch.full((length, length), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)
    scores = torch.matmul(query * scaling, key.transpose(2, 3)) + future
    return torch.matmul(scores.softmax(-1), value).transpose(1, 2).contiguous(), None


ATTENTION = "causal_products"
AttentionInterface.register(ATTENTION, _attend)
