"""Which number formats can a device multiply, how is that asked of torch, and which are emulated?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from probe.machine.device import Device

Shape = tuple[int, int, int]  # m, k, n of [m, k] @ [k, n]

# Instruction sets (names of `Device.isa`) with products of the format; without one of them it is emulated.
INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "svebf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16"),
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "dotprod", "i8mm", "svei8mm"),
}
CPU_PRECISIONS = ("float32", "float64", "bfloat16", "float16", "int8")
CUDA_PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "float64", "float8_e4m3fn", "int8")
# Tensor cores for TF32 and bfloat16 came with Ampere, for float8 with Ada (CUDA C Programming Guide).
FIRST_CAPABILITY = {"tf32": (8, 0), "bfloat16": (8, 0), "float8_e4m3fn": (8, 9)}
# How the second matrix lies in memory: [k, n], or [n, k] as the weight of torch.nn.Linear does.
ROWS, COLUMNS = "rows", "columns"
BYTES = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}
RESULT_BYTES = {"float8_e4m3fn": 2, "int8": 4}  # bfloat16 and int32; the others' results are of their own format
BELOW_TF32 = 2.0**-12  # 1 + this is 1 in TF32, whose fraction has 10 bits, and exact in float32
CHECKED_EDGE = 64


@dataclass(frozen=True)
class Precision:
    """A number format of matrix products; `name` is torch's, or "tf32" for float32 in TF32 arithmetic."""

    name: str
    emulated: bool = False

    @property
    def api(self) -> str:
        """The torch function that is measured."""
        return {"int8": "torch._int_mm", "float8_e4m3fn": "torch._scaled_mm"}.get(self.name, "torch.mm")

    @property
    def layouts(self) -> tuple[str, ...]:
        """How the second matrix may lie on a GPU: float8 products demand columns, fast int8 ones too."""
        return (COLUMNS,) if self.name in RESULT_BYTES else (ROWS, COLUMNS)

    def memory_bytes(self, shape: Shape) -> int:
        """What `product` needs on a GPU at most, the float32 random numbers before they are converted included."""
        m, k, n = shape
        made = 4 if self.name != "int8" else 0
        return (m * k + k * n) * (BYTES[self.name] + made) + m * n * RESULT_BYTES.get(self.name, BYTES[self.name])


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


def product(precision: Precision, shape: Shape, where: str, layout: str = ROWS) -> Callable[[], object]:
    """A call that multiplies random matrices of `shape` on torch device `where`, without allocating if torch allows.

    Random, because zeros switch fewer transistors and run faster than any data of yours.
    """
    import torch

    m, k, n = shape
    generator = torch.Generator(where).manual_seed(0)
    if precision.name == "int8":
        return _int8(shape, where, layout, generator)
    dtype = torch.float32 if precision.name == "tf32" else getattr(torch, precision.name)
    a = torch.randn(m, k, generator=generator, device=where).to(dtype)
    if layout == ROWS and precision.name != "float8_e4m3fn":
        b = torch.randn(k, n, generator=generator, device=where).to(dtype)
    else:
        b = torch.randn(n, k, generator=generator, device=where).to(dtype).t()
    if precision.name == "float8_e4m3fn":
        return _float8(a, b)
    out = torch.empty(m, n, dtype=dtype, device=where)
    return lambda: torch.mm(a, b, out=out)


def _int8(shape: Shape, where: str, layout: str, generator: Any) -> Callable[[], object]:
    import torch

    m, k, n = shape
    sizes = ((m, k), (k, n) if layout == ROWS else (n, k))
    left, right = (
        torch.randint(-128, 128, size, dtype=torch.int8, generator=generator, device=where) for size in sizes
    )
    if layout == ROWS:
        return lambda: torch._int_mm(left, right)
    columns, out = right.t(), torch.empty(m, n, dtype=torch.int32, device=where)
    return lambda: torch._int_mm(left, columns, out=out)


def _float8(a: Any, b: Any) -> Callable[[], object]:
    """The product with scales of one, accumulated as fast as the hardware can; torch 2.4 answers with a pair.

    An output is handed over where this torch takes one: that is tried once.
    """
    import torch

    one = torch.ones((), device=a.device)
    settings = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
    out = torch.empty(a.shape[0], b.shape[1], dtype=torch.bfloat16, device=a.device)
    scaled: Any = torch._scaled_mm
    try:
        scaled(a, b, out=out, **settings)
    except (TypeError, RuntimeError):  # torch 2.4 wants another output beside; what fails without `out` too shows then
        return lambda: scaled(a, b, **settings)
    return lambda: scaled(a, b, out=out, **settings)


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


def rounds_to_tf32(where: str) -> bool:
    """Whether float32 products on `where` drop what TF32 cannot hold: the environment may overrule torch's setting."""
    import torch

    edge = CHECKED_EDGE
    nearly_one = torch.full((edge, edge), 1.0 + BELOW_TF32, device=where)
    exact = edge * (1.0 + BELOW_TF32) ** 2
    return bool(abs(float(torch.mm(nearly_one, nearly_one)[0, 0]) - exact) > edge * BELOW_TF32)
