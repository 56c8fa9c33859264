"""The Triton kernel compiled for GPUs that are not there, as a program of its own.  Prints a line
for every kernel: its name, dtype and the processor that its code is for."""

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fly.acceptance import fused_kernel

# Kernel, dtype of the logits, capability.
WANTED = (
    ("_read", "fp32", 80),
    ("_read", "bf16", 90),
    ("_combine", "fp32", 80),
    ("_combine", "fp32", 90),
)
KERNELS: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "_read": (
        {"sums_ptr": "*fp32", "ids_ptr": "*i32", "stride_row": "i64", "stride_line": "i64"}
        | {"num_lines": "i32", "vocab_size": "i32"},
        {"stride_id": 1, "SPLITS": 4, "BLOCK": fused_kernel.BLOCK},
    ),
    "_combine": (
        {"sums_ptr": "*fp32", "ids_ptr": "*i32", "values_ptr": "*fp32", "choice_ptr": "*i64"},
        {"SPLITS": 4},
    ),
}


def code_of(name: str, dtype: str, capability: int) -> str:
    """PTX of a kernel that reads logits of this dtype."""
    kernel: Any = getattr(fused_kernel, name)
    types, constants = KERNELS[name]
    types = {"x_ptr": f"*{dtype}"} | types | dict.fromkeys(constants, "constexpr")
    signature = {argument: types[argument] for argument in kernel.arg_names}
    places = {(kernel.arg_names.index(each),): value for each, value in constants.items()}
    source = ASTSource(kernel, signature, places)
    target, options = GPUTarget("cuda", capability, 32), fused_kernel.OPTIONS
    return str(triton.compile(source, target=target, options=options).asm["ptx"])


def main() -> None:
    for name, dtype, capability in WANTED:
        code = code_of(name, dtype, capability)
        target = next(line for line in code.splitlines() if line.startswith(".target"))
        processor = target.split()[1].rstrip("a,")
        # A number that finds no register lies in local memory.
        sys.stdout.write(f"{name} {dtype} {processor} {'st.local' in code}\n")


if __name__ == "__main__":
    main()
