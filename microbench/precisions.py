"""Which number formats can a device multiply, how is that asked of torch, and which are emulated?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from probe.device import Device

Shape = tuple[int, int, int]  # m, k, n of [m, k] @ [k, n]

# Instruction sets (names of `Device.isa`) with products of the format; without one of them it is emulated.
INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "svebf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16"),
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "dotprod", "i8mm", "svei8mm"),
}
CPU_PRECISIONS = ("float32", "float64", "bfloat16", "float16", "int8")
CUDA_PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "float64", "float8_e4m3fn")
# Tensor cores for TF32 and bfloat16 came with Ampere, for float8 with Ada (CUDA C Programming Guide).
FIRST_CAPABILITY = {"tf32": (8, 0), "bfloat16": (8, 0), "float8_e4m3fn": (8, 9)}


@dataclass(frozen=True)
class Precision:
    """A number format of matrix products; `name` is torch's, or "tf32" for float32 in TF32 arithmetic."""

    name: str
    emulated: bool = False

    @property
    def api(self) -> str:
        """The torch function that is measured."""
        return {"int8": "torch._int_mm", "float8_e4m3fn": "torch._scaled_mm"}.get(self.name, "torch.mm")


def available(device: Device) -> tuple[Precision, ...]:
    """The formats to measure on `device`; int8 on a CPU and float8 on a GPU only where the hardware has them."""
    if device.kind == "cpu":
        found = (Precision(name, emulated=not _has(device, name)) for name in CPU_PRECISIONS)
        return tuple(p for p in found if not (p.name == "int8" and p.emulated))
    capability = tuple(int(part) for part in (device.compute_capability or "0.0").split("."))
    return tuple(Precision(name) for name in CUDA_PRECISIONS if capability >= FIRST_CAPABILITY.get(name, (0, 0)))


def _has(device: Device, name: str) -> bool:
    needed = INSTRUCTIONS.get(name)
    return needed is None or any(instruction in device.isa for instruction in needed)


def product(precision: Precision, shape: Shape, where: str) -> Callable[[], object]:
    """A call that multiplies random matrices of `shape` on torch device `where`, without allocating if torch allows.

    Random, because zeros switch fewer transistors and run faster than any data of yours.
    """
    import torch

    m, k, n = shape
    generator = torch.Generator(where).manual_seed(0)
    if precision.name == "int8":
        left, right = (
            torch.randint(-128, 128, size, dtype=torch.int8, generator=generator, device=where)
            for size in ((m, k), (k, n))
        )
        return lambda: torch._int_mm(left, right)
    a = torch.randn(m, k, generator=generator, device=where)
    b = torch.randn(k, n, generator=generator, device=where)
    if precision.name == "float8_e4m3fn":
        one = torch.ones((), device=where)
        low, high = a.to(torch.float8_e4m3fn), b.t().contiguous().to(torch.float8_e4m3fn).t()
        return lambda: torch._scaled_mm(low, high, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    dtype = torch.float32 if precision.name == "tf32" else getattr(torch, precision.name)
    a, b = a.to(dtype), b.to(dtype)
    out = torch.empty(m, n, dtype=dtype, device=where)
    return lambda: torch.mm(a, b, out=out)


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Let float32 products use TF32 within the block if that is what is measured, and only then."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision.name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
