"""Views of a loaded model, with layers left out or replaced.  The weights are shared, the tree of
modules is another; the model itself is not touched."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from torch import nn

from fly.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What attention and its kin call the number of their layer; the cache is indexed by it.
LAYER_NUMBERS = ("layer_idx", "layer_id", "layer_number")
OWN_CONTAINERS = (dict, list, set)

Replace = Callable[[nn.Module], nn.Module | None]


def view_of(model: PreTrainedModel, replace: Replace = lambda _: None) -> PreTrainedModel:
    """The same parameters and buffers behind new modules, with configurations of their own.

    Args:
        model: a loaded model.
        replace: gives what stands in a module's place, None for a view of the module.

    Raises:
        ModelError: accelerate's hooks bring its weights where they are needed.
    """
    # A compiled module calls what it was made of by itself, so the view is made of that.
    source: Any = getattr(model, "_orig_mod", model)
    if any(hasattr(module, "_hf_hook") for module in source.modules()):
        raise ModelError(
            f"{type(source).__name__} is spread over devices by hooks, so no draft can be made of "
            "its weights",
            fix="load it on a single device, or choose another drafter",
        )
    viewed: PreTrainedModel = _view(source, replace, {}, {})
    return viewed


def _view(
    module: nn.Module, replace: Replace, seen: dict[int, nn.Module], configs: dict[int, Any]
) -> Any:
    """A module's view; one that occurs twice stays one."""
    if id(module) in seen:
        return seen[id(module)]
    new = replace(module)
    if new is None:
        new = type(module).__new__(type(module))
        for name, value in vars(module).items():
            # A module keeps its weights and its children in dictionaries.
            kept = copy.copy(value) if isinstance(value, OWN_CONTAINERS) else value
            vars(new)[name] = _own_config(kept, configs)
        _bind(new, module)
        for name, child in module._modules.items():
            new._modules[name] = child and _view(child, replace, seen, configs)
    seen[id(module)] = new
    return new


def _own_config(value: Any, configs: dict[int, Any]) -> Any:
    """A copy of what is a configuration, the same for all modules that share it."""
    if not (hasattr(value, "to_dict") and hasattr(value, "model_type")):
        return value
    if id(value) not in configs:
        # Parts of a configuration, such as the text model's, are shared with modules too.
        memo = dict(configs)
        made = copy.deepcopy(value, memo)
        configs.update({key: part for key, part in memo.items() if hasattr(part, "model_type")})
        configs[id(value)] = made
    return configs[id(value)]


def _bind(new: nn.Module, module: nn.Module) -> None:
    """A method that somebody put in place of the class's own belongs to the new module."""
    for name, value in vars(new).items():
        if isinstance(value, types.MethodType) and value.__self__ is module:
            vars(new)[name] = types.MethodType(value.__func__, new)


def text_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration that counts the layers."""
    config: PretrainedConfig = model.config.get_text_config()
    return config


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers: the outermost list of modules that has as many as the configuration has.

    Raises:
        ModelError: there is none.
    """
    count = getattr(text_config(model), "num_hidden_layers", None)
    found = [
        (name.count("."), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no list of {count} decoder layers to leave some out of",
            fix='set drafter_settings to {"how": "int8"}, or choose another drafter',
        )
    return min(found, key=lambda each: each[0])[1]


def without_layers(model: PreTrainedModel, left_out: Collection[int]) -> PreTrainedModel:
    """A view without the decoder layers of these numbers, from 0; those that stay are numbered
    anew, so that a cache of their number fits.

    Raises:
        ModelError: the layers cannot be found, there is none of such a number, or none would stay.
    """
    count = len(layer_list(model))
    unknown = sorted(number for number in set(left_out) if not 0 <= number < count)
    if unknown:
        raise ModelError(
            f"left_out names layer {unknown[0]}, but {type(model).__name__} has {count} layers",
            fix=f"name layers from 0 to {count - 1}",
        )
    kept = [number for number in range(count) if number not in set(left_out)]
    if not kept:
        raise ModelError(
            f"left_out names all {count} layers of {type(model).__name__}",
            fix="keep at least one layer",
        )
    view = view_of(model)
    layers = layer_list(view)
    remaining = [layers[number] for number in kept]
    layers._modules.clear()
    layers.extend(remaining)
    for new, layer in enumerate(remaining):
        _renumber(layer, new)
    _shorten(text_config(view), kept, count)
    return view


def _renumber(layer: nn.Module, number: int) -> None:
    """Give all parts of a layer its new number."""
    for part in layer.modules():
        for name in LAYER_NUMBERS:
            if isinstance(vars(part).get(name), int):
                setattr(part, name, number)


def _shorten(config: PretrainedConfig, kept: list[int], count: int) -> None:
    """As many layers as stay, and what the configuration lists layer by layer for these alone."""
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == count:
            vars(config)[name] = type(value)(value[number] for number in kept)
    config.num_hidden_layers = len(kept)
