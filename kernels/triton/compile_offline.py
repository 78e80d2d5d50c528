"""How is a Triton kernel compiled for an architecture without a GPU? By describing the arguments it would be given.

Triton compiles for what it is called with: types, constants, and which addresses and integers are divisible by 16,
on which the width of its loads depends. Called with tensors it sees for itself; here all of it is said. How that is
spelled changed between Triton 3.1 and 3.3, which is hidden here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from probe.kernels.cuda import cubin
from probe.kernels.triton.launching import FUSED

THREADS_PER_WARP = 32
DIVISOR = 16  # what Triton asks of addresses and integers, to use 128-bit loads


@dataclass(frozen=True)
class Call:
    """What a kernel is called with; an integer argument that is neither typed nor constant is an "i32"."""

    types: Mapping[str, str]  # argument -> "*bf16", "fp32", "i64"
    constants: Mapping[str, object]
    divisible: Sequence[str] | None = None  # by 16; None: all pointers and integers the kernel is specialised for
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True)
class Compiled:
    """The machine code for one architecture and what it needs."""

    cubin: bytes
    name: str  # of the kernel in the cubin
    shared_bytes: int  # of shared memory, a block
    ptx: str


def compiled(kernel: Any, call: Call, architecture: int) -> Compiled:
    """`kernel` (a function under triton.jit) for compute capability architecture / 10: 80, 90, 100 ."""
    names = [str(name) for name in kernel.arg_names]
    target = GPUTarget("cuda", architecture, THREADS_PER_WARP)
    options = {"num_warps": call.warps, "num_stages": call.stages, **FUSED}
    made = triton_compile(_source(kernel, names, call), target=target, options=options)
    return Compiled(made.asm["cubin"], cubin.kernels(made.asm["cubin"])[0], int(made.metadata.shared), made.asm["ptx"])


def _source(kernel: Any, names: Sequence[str], call: Call) -> Any:
    """Signature, constants and divisibility as this Triton wants them."""
    types = {name: call.types.get(name, "i32") for name in names if name not in call.constants}
    asked = {p.name for p in kernel.params if not p.do_not_specialize}
    wanted = asked if call.divisible is None else set(call.divisible)
    divisible = [i for i, name in enumerate(names) if name in wanted and not types.get(name, "fp").startswith("fp")]
    if "constexprs" in inspect.signature(ASTSource.__init__).parameters:
        attributes = {(i,): [["tt.divisibility", DIVISOR]] for i in divisible}
        signature = {name: types.get(name, "constexpr") for name in names}
        return ASTSource(kernel, signature, constexprs=dict(call.constants), attrs=attributes)
    return _source_before_3_3(kernel, names, types, call.constants, divisible)


def _source_before_3_3(
    kernel: Any, names: Sequence[str], types: dict[str, str], constants: Mapping[str, object], divisible: list[int]
) -> Any:
    """Triton 3.1 and 3.2: positions for divisibility, constants apart from the signature."""
    from triton.backends import compiler as backends

    descriptor: Any = backends.AttrsDescriptor  # gone since
    if hasattr(descriptor, "from_dict"):
        attributes = descriptor.from_dict({"arg_properties": {"tt.divisibility": divisible}, "cls": "AttrsDescriptor"})
    else:
        attributes = descriptor(divisible_by_16=tuple(divisible), equal_to_1=())
    return ASTSource(kernel, types, constants=dict(constants), attrs=attributes)
