"""What does the machine code hold that Triton made of attention for a GPU? Tensor-core instructions, and no spills."""

from __future__ import annotations

from typing import Any

import torch
import triton

from probe.kernels.cuda import cubin, sass
from probe.kernels.cuda.proof import Claim, count, evidence
from probe.kernels.triton.attention import forward
from probe.kernels.triton.attention_backward import backward
from probe.kernels.triton.attention_problem import problem

PRODUCTS = ("UTCHMMA", "HGMMA", "HMMA")  # of tensor cores by generation, newest first
POSITIONS, HEADS = 256, 2  # of a small problem for which Triton compiles the same as for a large one


def proof(head_dim: int, dtype: str, where: str, *, backward: bool) -> dict[str, Any] | None:
    """The evidence of the forward kernel, with `backward` that of the others under their names; None if interpreted."""
    compiled = launched(head_dim, dtype, where, with_gradients=backward)
    if not compiled:
        return None
    found = {name: of_cubin(made.asm["cubin"]) for name, made in compiled.items()}
    first, others = found.pop("forward"), found
    return first | ({"backward": others} if others else {})


def launched(head_dim: int, dtype: str, where: str, *, with_gradients: bool) -> dict[str, Any]:
    """What Triton compiled, by kernel, for tensors of that head_dim and dtype; empty under its interpreter."""
    shape = (1, HEADS, POSITIONS, head_dim)
    q, k, v = (torch.ones(shape, dtype=getattr(torch, dtype), device=where) for _ in range(3))
    call = problem(q, k, v, causal=False, scale=None)
    made = forward(call)
    compiled = {"forward": made.compiled} if made.compiled is not None else {}
    if with_gradients:
        compiled |= backward(call, made.out, made.log2_sum, torch.ones_like(made.out)).compiled
    return compiled


def of_cubin(code: bytes) -> dict[str, Any]:
    """The evidence of the one kernel in `code`."""
    [name] = cubin.kernels(code)
    instructions = sass.of(code, name)
    main = next((mnemonic for mnemonic in PRODUCTS if count(mnemonic, instructions)), "")
    return evidence(
        Claim(main=main),
        instructions,
        architecture=f"sm_{cubin.architecture(code)}",
        registers=cubin.registers(code, name),
        compiler=f"Triton {triton.__version__}",
        local_bytes=cubin.local_bytes(code, name),
    )
