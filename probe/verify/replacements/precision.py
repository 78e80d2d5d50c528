"""The chain in another floating type: float32 for an accidental double, autocast, TF32 (E14, E02, E01)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probe.verify.program import Program
from probe.verify.proposal import Proposal

TO = {"E14": "float32"}


def propose(program: Program) -> Iterator[Proposal]:
    """By the rule; what comes out keeps its type, so that what follows can take it."""
    code = program.site.code
    if code in TO:
        dtype = TO[code]
        yield Proposal(dtype, f"x.to(torch.{dtype})", _cast(program, dtype), floor_dtype=dtype)
    if code == "E02":
        line = "with torch.autocast(device_type, dtype=torch.bfloat16): ..."
        yield Proposal("bfloat16", line, _autocast(program), floor_dtype="bfloat16")
    if code == "E01" and _on_gpu():
        line = 'torch.set_float32_matmul_precision("high")'
        yield Proposal("TF32", line, _tf32(program), floor_dtype="float16")  # TF32 has float16's 10 bits


def _on_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _cast(program: Program, dtype: str) -> Any:
    """Everything floating in that type; inputs and results are cast, which is a part of the time."""
    import torch

    inner = program.function(exact=True, floats=f"torch.{dtype}")
    wanted: Any = getattr(torch, dtype)
    results = [getattr(torch, name) for _, name in program.results]

    def cast(*tensors: Any) -> Any:
        given = (t.to(wanted) if t.is_floating_point() else t for t in tensors)
        return tuple(one.to(kind) for one, kind in zip(inner(*given), results, strict=True))

    return cast


def _autocast(program: Program) -> Any:
    """The chain under autocast, which decides for each operator; what comes out keeps its type."""
    import torch

    results = [getattr(torch, name) for _, name in program.results]

    def autocast(*tensors: Any) -> Any:
        kind = tensors[0].device.type
        with torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=False):
            made = program.function(device=str(tensors[0].device))(*tensors)
        return tuple(one.to(dtype) for one, dtype in zip(made, results, strict=True))

    return autocast


def _tf32(program: Program) -> Any:
    """The chain with TF32 allowed while it runs."""
    import torch

    inner = program.function(device="cuda")

    def allowed(*tensors: Any) -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return inner(*tensors)
        finally:
            torch.set_float32_matmul_precision(before)

    return allowed
