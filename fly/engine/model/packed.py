"""Linear layers with packed weights, on a view of a loaded model.  oneDNN keeps such a weight in
the order in which its products read it, so a CPU need not reorder it at every forward."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fly.engine.model.base import execution_device, read_whole
from fly.engine.model.devices import is_hooked
from fly.engine.model.packing_gains import (
    LINES,
    Choice,
    Gains,
    choose,
    find_gains,
    is_available,
    line_class,
    pack_weight,
    packed_product,
    shape_name,
)
from fly.engine.model.probe import EXACT, ROUGH
from fly.engine.self_draft.model_view import view_of
from fly.errors import FLyWarning, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Wanted = Literal["auto", "on", "off"]

SMALLEST = 1 << 14  # numbers in a weight: calling the operation costs more than smaller ones gain
MEMORY_SHARE = 0.5  # of the memory that is free, which packed copies may take
SAMPLE_IDS = 8  # in the text on which a view's logits are compared with the model's


class PackedLinear(nn.Module):
    """A linear layer that reads a packed copy of its weight for those numbers of lines for which
    that is faster.  For all others it does what it did before."""

    def __init__(self, layer: nn.Module, packed: Tensor, pays: Sequence[bool]) -> None:
        """Stand for `layer`; `pays` says for each of LINES whether to read `packed`.  Weight and
        bias are shared, for those who look at the layer instead of calling it.
        """
        super().__init__()
        for name, value in vars(layer).items():
            if name.endswith("_features") or name == "nf":
                setattr(self, name, value)
        linear: Any = layer
        self.weight: Tensor = linear.weight
        self.bias: Tensor | None = linear.bias
        self.packed = packed
        self._unpacked = layer.forward
        self._pays = tuple(pays)
        self._num_in = weight_of(layer).shape[1]

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if (
            self._pays[line_class(states.numel() // self._num_in)]
            and states.dtype is self.weight.dtype
            and not torch.is_grad_enabled()  # the packed product has no gradient
            and not torch.is_autocast_enabled("cpu")
        ):
            return packed_product(states, self.packed, self.bias)
        product: Tensor = self._unpacked(states)
        return product

    def fixed(self, lines: int) -> nn.Module:
        """What it does for so many lines, for code that cannot ask at every call."""
        if self._pays[line_class(lines)]:
            return FixedLinear(self.packed, self.bias)
        unpacked: Any = self._unpacked
        layer: nn.Module = unpacked.__self__
        return layer


class FixedLinear(nn.Module):
    """A linear layer that reads a packed weight whatever it is given."""

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        """Shares both."""
        super().__init__()
        self.packed, self.bias = packed, bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return packed_product(states, self.packed, self.bias)


def fixed_view(model: PreTrainedModel, lines: int) -> PreTrainedModel:
    """A view whose packed layers do what they do for so many lines; the model itself where it has
    none."""
    if not any(isinstance(part, PackedLinear) for part in model.modules()):
        return model
    return view_of(
        model, lambda part: part.fixed(lines) if isinstance(part, PackedLinear) else None
    )


def packed_weights(model: nn.Module) -> list[int]:
    """The packed weights that a view reads, by identity: others where they were packed anew."""
    return [id(part.packed) for part in model.modules() if isinstance(part, PackedLinear)]


def weight_of(layer: Any) -> Tensor:
    """The weight [out, in] of a linear layer."""
    weight: Tensor = layer.weight.detach()
    return weight.t() if type(layer) is Conv1D else weight


def _state(layer: Any) -> tuple[int, int]:
    """Changes when the weight does; one made in inference mode does not count its changes."""
    weight = layer.weight
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _is_packable(layer: nn.Module) -> bool:
    """Whether this is a linear layer and nothing else.  Layers of other types (quantised, adapters)
    and hooked ones do something of their own.
    """
    if type(layer) not in (nn.Linear, Conv1D) or "forward" in vars(layer):
        return False
    weight = weight_of(layer)
    is_plain = weight.device.type == "cpu" and weight.is_floating_point()
    return is_plain and weight.numel() >= SMALLEST and not is_hooked(layer)


def packable_layers(model: nn.Module) -> list[nn.Module]:
    """Linear layers that can be packed, each once; none within an adapter, as merging it into its
    base layer would leave a packed copy as it was.
    """
    inner = {
        id(part)
        for adapter in model.modules()
        if hasattr(adapter, "base_layer")
        for part in adapter.modules()
    }
    return [part for part in model.modules() if id(part) not in inner and _is_packable(part)]


class Packer:
    """Packs the models of one run.  Weights that several of them share are packed once."""

    def __init__(self, wanted: Wanted = "auto", choice: Choice | None = None) -> None:
        """Nothing is packed yet.

        Args:
            wanted: `auto` packs where a measurement says that it pays, `on` whatever can be packed,
                `off` nothing.
            choice: of the same run before it was interrupted; nothing is measured then.
        """
        self.wanted = wanted
        self.choice: Choice = dict(choice or {})
        self.summary: dict[str, dict[str, Any] | None] = {}  # by role; None: it is as it was
        self._measures = wanted == "auto" and choice is None
        self._gains: Gains = {}
        self._views: dict[int, tuple[PreTrainedModel, PreTrainedModel]] = {}  # by the model's id
        self._packed: dict[int, Tensor] = {}  # by the id of the weight
        self._layers: list[tuple[PackedLinear, nn.Module, tuple[int, int]]] = []

    def view(self, model: PreTrainedModel, role: str) -> PreTrainedModel:
        """The model as it should run: itself, or a view of it with packed layers.

        Args:
            model: a loaded model; nothing of it is changed.
            role: what to call it in messages and results, as "target".

        Warns:
            FLyWarning: `on` was asked for, and the model cannot be packed.
        """
        if self.wanted == "off":
            return model
        if id(model) not in self._views:
            self._views[id(model)] = model, self._make(model, role)
        return self._views[id(model)][1]

    def refresh(self) -> None:
        """Pack anew what was changed in place since."""
        renewed: dict[int, Tensor] = {}
        for place, (packed, layer, state) in enumerate(self._layers):
            if state == _state(layer):
                continue
            key = id(layer.weight)
            if key not in renewed:
                renewed[key] = pack_weight(weight_of(layer))
            packed.packed = renewed[key]
            self._layers[place] = packed, layer, _state(layer)
        self._packed |= renewed

    def _make(self, model: PreTrainedModel, role: str) -> PreTrainedModel:
        self.summary[role] = None
        layers = packable_layers(model)
        pays = {id(layer): self._pays(layer) for layer in self.measure(layers)}
        chosen = self._that_fit([layer for layer in layers if any(pays[id(layer)])], role)
        if not chosen:
            logger.info("no linear layer of the %s runs packed: none can, or none pays", role)
            return model
        if not is_available():
            why = "this torch has no packed products (oneDNN)"
        elif hasattr(model, "_orig_mod"):
            why = "torch.compile made it"
        else:
            try:
                return self._packed_view(model, role, layers, {id(c): pays[id(c)] for c in chosen})
            except (ModelError, RuntimeError) as error:
                why = str(error).splitlines()[0]
        if self.wanted == "on":
            warnings.warn(
                f"packed is on, but the {role} runs as it was loaded: {why}",
                FLyWarning,
                stacklevel=6,
            )
        return model

    def measure(self, layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
        """Choose for all shapes among these layers that nothing is chosen for yet; the layers."""
        if not self._measures or not is_available():
            return layers
        groups: dict[str, list[Tensor]] = {}
        for weight in map(weight_of, layers):
            groups.setdefault(shape_name(weight), []).append(weight)
        groups = {name: group for name, group in groups.items() if name not in self.choice}
        if groups:
            gains = find_gains(groups)
            self._gains |= gains
            self.choice |= choose(gains)
        return layers

    def _pays(self, layer: nn.Module) -> list[bool]:
        """For each of LINES, whether a layer is packed for it."""
        if self.wanted == "on":
            return [True] * len(LINES)
        chosen = self.choice.get(shape_name(weight_of(layer)), [])
        return [lines in chosen for lines in LINES]

    def _that_fit(self, layers: Sequence[nn.Module], role: str) -> list[nn.Module]:
        """The layers whose copies fit into the memory that is free, the most useful first."""
        room = MEMORY_SHARE * psutil.virtual_memory().available

        def gain(layer: nn.Module) -> float:
            return max(self._gains.get(shape_name(weight_of(layer)), {}).values(), default=0.0)

        chosen = []
        for layer in sorted(layers, key=gain, reverse=True):
            if id(layer.weight) not in self._packed:
                room -= _bytes(layer)
            if room >= 0:
                chosen.append(layer)
        if len(chosen) < len(layers):
            logger.warning(
                "%d of %d linear layers of the %s are not packed: their copies need more than half "
                "of the memory that is free",
                len(layers) - len(chosen),
                len(layers),
                role,
            )
        return chosen

    def _packed_view(
        self,
        model: PreTrainedModel,
        role: str,
        layers: Sequence[nn.Module],
        pays: Mapping[int, Sequence[bool]],
    ) -> PreTrainedModel:
        """A view with the layers of these ids packed.

        Raises:
            ModelError: no view can be made of it, or its logits are others.
            RuntimeError: a weight cannot be packed.
        """
        made = []

        def replace(layer: nn.Module) -> nn.Module | None:
            if id(layer) not in pays:
                return None
            key = id(layer.weight)
            if key not in self._packed:
                self._packed[key] = pack_weight(weight_of(layer))
            packed = PackedLinear(layer, self._packed[key], pays[id(layer)])
            made.append((packed, layer, _state(layer)))
            return packed

        view = view_of(model, replace)
        _check(view, model)
        self._layers += made
        chosen = [layer for layer in layers if id(layer) in pays]
        shapes = {shape_name(weight_of(layer)): pays[id(layer)] for layer in chosen}
        size = sum({id(layer.weight): _bytes(layer) for layer in chosen}.values())
        self.summary[role] = {
            "layers": len(chosen),
            "of": len(layers),
            "megabytes": round(size / 1e6, 1),
            "lines": {
                name: [lines for lines, on in zip(LINES, classes, strict=True) if on]
                for name, classes in shapes.items()
            },
        }
        logger.info(
            "%d of %d linear layers of the %s are packed, in %.0f MB more memory: %s",
            len(chosen),
            len(layers),
            role,
            size / 1e6,
            "all, as asked" if self.wanted == "on" else self._in_words(shapes),
        )
        return view

    def _in_words(self, shapes: Mapping[str, Sequence[bool]]) -> str:
        """As "float32 49152x576 at 4 to 64 lines, up to 2.6 times as fast"."""
        parts = []
        for name, classes in shapes.items():
            lines = [n for n, on in zip(LINES, classes, strict=True) if on]
            gains = [self._gains[name][n] for n in lines if name in self._gains]
            fast = f", up to {max(gains):.1f} times as fast" if gains else ", as before"
            parts.append(f"{name} at {', '.join(map(str, lines))} lines{fast}")
        return "; ".join(parts)


def _bytes(layer: Any) -> int:
    return int(layer.weight.numel() * layer.weight.element_size())


@torch.inference_mode()
def _check(view: PreTrainedModel, model: PreTrainedModel) -> None:
    """Compare the logits of both on a short text.

    Raises:
        ModelError: they differ by more than rounding.
    """
    size = int(model.config.get_text_config().vocab_size)
    ids = torch.arange(SAMPLE_IDS, device=execution_device(model))[None] * 37 % size
    own, packed = (read_whole(each, ids).float() for each in (model, view))
    known = own.isfinite()
    error = float((packed - own)[known].abs().max()) if known.any() else 0.0
    limit = EXACT if model.dtype == torch.float32 else ROUGH
    if not error <= limit * max(1e-6, float(own[known].std())):
        raise ModelError(f"its logits differ by {error:.2g} when packed", fix="set packed to off")
