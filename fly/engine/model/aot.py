"""Steps compiled ahead of time by AOTInductor, with free sizes.  Weights stay the model's own: a
compiled step is told where they lie, so that it fits any model of the same shapes."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from fly.engine.model.graph import Step, StepKind, StepModule, export_step
from fly.engine.model.masks import MaskPlan
from fly.engine.model.step_packages import StepPackages
from fly.machine import cpu_flags

if TYPE_CHECKING:
    from torch.export import ExportedProgram

VERSION = 1  # of packages
# The key under which a package says what the module calls each of its constants.
NAMES = "constants"
OPTIONS: dict[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    # Small vectors would be written into the code by value.
    "always_keep_tensor_constants": True,
}


class AotBackend:
    """Compiles steps, and keeps them as packages."""

    name = "AOTInductor"

    def __init__(self, packages: StepPackages) -> None:
        """Where compiled steps are kept."""
        self._packages = packages

    def why_not(self) -> str | None:
        """See Backend."""
        return missing()

    def has(self, module: StepModule, kind: StepKind) -> bool:
        """See Backend."""
        return self._packages.find(key_of(module, kind)) is not None

    def make(self, module: StepModule, kind: StepKind, buffers: Sequence[Tensor]) -> Step:
        """See Backend."""
        key = key_of(module, kind)
        found = self._packages.find(key)
        if found is not None:
            try:
                return load_step(module, found)
            except (RuntimeError, KeyError, ValueError, AttributeError) as error:
                self._packages.discard(key, str(error).partition("\n")[0])
        with self._packages.made(key, partial(compile_step, module, kind, buffers)) as package:
            return load_step(module, package)


def key_of(module: StepModule, kind: StepKind) -> str:
    """64 hexadecimal digits over all that a compiled step depends on.  The numbers in the weights
    are none of it.
    """
    model = module.model
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    kept = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    known = [
        VERSION,
        str(kind),
        config,
        model.config._attn_implementation,
        module.settings,
        {name: _layout(tensor) for name, tensor in kept.items()},
        [(name, str(type(part)), _source(type(part))) for name, part in model.named_modules()],
        [_source(each) for each in (StepModule, MaskPlan, AotBackend)],
        _machine(),
    ]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    strides = None if tensor.is_mkldnn else tensor.stride()
    return tuple(tensor.shape), strides, str(tensor.dtype), str(tensor.device)


def _source(kind: type) -> str:
    """A digest of the file that defines a class."""
    try:
        return _digest(inspect.getfile(kind))
    except (OSError, TypeError):  # built in, or typed in by hand
        return ""


@cache
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _machine() -> list[Any]:
    """What compiled code depends on besides the model."""
    return [
        torch.__version__,
        transformers.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        cpu_flags(),
        torch.get_num_threads(),  # written into the code
        torch.get_float32_matmul_precision(),
    ]


def missing() -> str | None:
    """What is missing for compiling here; None where nothing is."""
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        return f"torch {torch.__version__} has no AOTInductor packages"
    try:
        with _quiet():
            from torch._inductor.cpp_builder import get_cpp_compiler

            compiler = get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  inductor raises its own kinds
        return f"there is no C++ compiler ({type(error).__name__})"
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler!r}"
    return None


def compile_step(module: StepModule, kind: StepKind, buffers: Sequence[Tensor], file: Path) -> None:
    """Trace and compile a step into a package, `file`, whose name ends in .pt2."""
    program = export_step(module, kind, buffers)
    options = {**OPTIONS, "aot_inductor.metadata": {NAMES: json.dumps(constant_names(program))}}
    with _quiet(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(file), inductor_configs=options
        )


def constant_names(program: ExportedProgram) -> dict[str, str]:
    """From what a compiled step calls a constant to what the module calls it, where they differ.

    Parameters and buffers keep their names.  Other tensors are numbered as they are first used.
    """
    kinds = torch.export.graph_signature.InputKind
    targets = {
        each.arg.name: each.target
        for each in program.graph_signature.input_specs
        if each.kind == kinds.CONSTANT_TENSOR
    }
    used: list[str] = []
    for node in program.graph.nodes:
        for name in (each.name for each in node.all_input_nodes):
            if name in targets and targets[name] not in used:
                used.append(targets[name])
    return {f"_tensor_constant{number}": name for number, name in enumerate(used)}


def load_step(module: StepModule, file: Path) -> Step:
    """The step of a package, over the module's own weights."""
    with _quiet():
        package = torch._inductor.aoti_load_package(str(file))
    renamed = json.loads(package.get_metadata()[NAMES])
    constants = {}
    for name in package.get_constant_fqns():
        value = attrgetter(renamed.get(name, name))(module)
        constants[name] = value.detach()
    package.load_constants(constants, check_full_update=True, user_managed=True)
    return _Loaded(package.loader, constants)


class _Loaded:
    """A package's function without the checks of its call."""

    def __init__(self, loader: Any, constants: dict[str, Tensor]) -> None:
        """Keeps the constants alive, which the loader knows by their addresses."""
        self._run, self._constants = loader.boxed_run, constants

    def __call__(
        self, ids: Tensor, positions: Tensor, slots: Tensor, buffers: Sequence[Tensor]
    ) -> Tensor:
        """See Step."""
        logits: Tensor = self._run([ids, positions, slots, *buffers])[0]
        return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's own remarks, which nobody here can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
