"""Steps for a served model, compared with the eager forward before use.  What tracing would not
follow stays eager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fly.engine.model.devices import is_hooked
from fly.engine.model.graph import Backend, Step, StepKind, StepModule
from fly.engine.model.packed import fixed_view
from fly.engine.model.probe import share, tolerance
from fly.engine.model.slots import SlotModel

STARTS = (9, 4, 14)  # tokens that rows hold when a step is compared
PACKED_TYPES = (torch.uint8, torch.int8, torch.int32)  # of quantised weights
LENGTHS = (3, 2)  # tokens of the two forwards compared, where a step takes several


def why_eager(model: Any) -> str | None:
    """What a traced forward would not follow, in words; None where there is nothing."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        return "it is no transformers model"
    if hasattr(model, "_orig_mod"):
        return "it is compiled already"
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        return "it has adapters, which may be changed at any time"
    if _is_quantised(model):
        return "its weights are quantised"
    for name, module in model.named_modules():
        if hasattr(module, "_hf_hook") or is_hooked(module):
            return f"{name or 'it'} has hooks"
        if "forward" in vars(module):
            return f"the forward of {name or 'the model'} was replaced"
    devices = {each.device.type for each in model.parameters()}
    if devices != {"cpu"}:
        return f"its weights lie on {', '.join(sorted(devices))}, and steps are compiled for a CPU"
    if torch.is_autocast_enabled("cpu"):
        return "it runs under autocast"
    return None


def _is_quantised(model: Any) -> bool:
    """Whether weights are kept in fewer bits.  A model from a GGUF file is marked as quantised
    though its weights were made ordinary floats at loading; ours in 8 bits is not marked.
    """
    if any(each.dtype in PACKED_TYPES for each in [*model.parameters(), *model.buffers()]):
        return True
    how = getattr(model.config, "quantization_config", None)
    is_marked = how is not None or getattr(model, "is_quantized", False)
    return is_marked and getattr(how, "quant_method", None) != "gguf"


def module_for(model: SlotModel, lines: int) -> StepModule:
    """The function that is traced, for products of about so many lines."""
    return model.step_module(fixed_view(model.view, lines))


def make_steps(model: SlotModel, kinds: Mapping[StepKind, int], backend: Backend) -> str | None:
    """Give the model steps of these kinds, each for products of about so many lines.

    Returns:
        Why one is left out, in words: it cannot be made, or differs from the eager forward.
    """
    example = Example(model)
    for kind, lines in kinds.items():
        try:
            with torch.inference_mode(False), torch.no_grad():
                step = backend.make(module_for(model, lines), kind, example.buffers(kind))
            error = example.deviation(step, kind)
        except torch.OutOfMemoryError:
            raise  # shows nothing about the step
        except Exception as failure:  # noqa: BLE001  exports and compilers raise what they like
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            return f"{backend.name} raised {type(failure).__name__}: {reason}"
        if not error <= tolerance(model.model):
            return f"compiled, its logits are off by {error:.2g} of their standard deviation"
        model.step_cache.add(kind, step)
    return None


class Example:
    """A model with a cache of its own, on which steps are traced and compared."""

    def __init__(self, model: SlotModel) -> None:
        """Some rows of random tokens are read."""
        self.served = model.without_cache()
        generator = torch.Generator().manual_seed(0)
        longest = max(STARTS) + 2 * sum(LENGTHS)
        limit = model.num_positions or longest
        self._starts = [min(start, max(1, limit - sum(LENGTHS))) for start in STARTS]
        shape = (len(STARTS), longest)
        self._ids = torch.randint(0, model.vocab_size, shape, generator=generator)
        self._ids = self._ids.to(model.device)
        self.restore()

    @torch.inference_mode()
    def restore(self) -> None:
        """The rows hold STARTS tokens each."""
        self.served.clear()
        texts = zip(self._ids.tolist(), self._starts, strict=True)
        self.served.prefill([text[:start] for text, start in texts], 0)

    def buffers(self, kind: StepKind) -> list[Tensor]:
        """The cache's."""
        return self.served.cache.buffers(is_single=kind.is_single)

    @torch.inference_mode()
    def deviation(self, step: Step, kind: StepKind) -> float:
        """How far two forwards by a step, one after the other, are from the eager ones; see
        `share`."""
        want = self._run(kind)
        self.served.step_cache.add(kind, step)
        got = self._run(kind)
        return share(torch.cat(got, 1).float() - torch.cat(want, 1).float(), torch.cat(want, 1))

    def _run(self, kind: StepKind) -> list[Tensor]:
        """Logits of two forwards after what the rows hold."""
        self.restore()
        num_rows = 1 if kind.is_single else len(self._starts)
        starts, logits = self._starts[:num_rows], []
        for n in LENGTHS if kind.is_long else (1, 1):
            ids = torch.stack(
                [self._ids[row, start : start + n] for row, start in enumerate(starts)]
            )
            logits.append(self.served.extend(ids, starts).clone())
            starts = [start + n for start in starts]
        return logits
