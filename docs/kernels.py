"""Write docs/kernels.md again: what each fused kernel replaces, and what its machine code needs.

Usage: python docs/kernels.py        (compiles every kernel for three architectures; needs Triton, no GPU)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import torch
import triton

from probe.kernels.fused.catalogue import KERNELS
from probe.kernels.fused.kernel import FusedKernel
from probe.kernels.fused.resources import Resources, compiled

ARCHITECTURES = (80, 90, 100)
DTYPES = (torch.bfloat16, torch.float32)
ROWS, COLUMNS = 1024, 4096
INTRODUCTION = """# Fused kernels

Triton kernels for what torch runs as several operators, with gradients (but for the attention). Each is a function, an
`nn.Module` and an operator of torch (`probe::…`), so that `torch.compile`, `torch.export` and the profiler see it.

    from probe.kernels.fused.residual_norm import residual_norm, residual_norm_why_not

    y, stream = residual_norm(x, stream, weight, kind="rms")

- Everything is computed in float32 and rounded once. float32, float16 and bfloat16 are taken, mixed as the functions
  say; a GPU of compute capability 8.0 or above is needed, except by `linear_cross_entropy`, which runs on CPUs too.
- Outside its domain a function raises `UsageError`, without a GPU `UnavailableError`; nothing is silently replaced.
  `why_not(*the same arguments)` says why in one line, or None. The modules compute the same with torch's operators
  where the kernel cannot run.
- Dropout keeps what a seed and the place of an element say (Philox), and the backward pass computes that again:
  nothing is stored. The seed lies on the device and comes from torch's generator unless it is given.
- Gradients of weights and biases are summed in two stages of fixed order: the same bits in every run.
- There are no second derivatives. Sizes need not be even; accesses are 128 bits wide where rows are multiples of 16.
- `cost` and `backward_cost` say how many bytes a call must move at least, and how many FLOP it computes.

How they are checked without a GPU: in Triton's interpreter against float64, outputs and all gradients, by the rule of
[verify](verify.md); and in the machine code that Triton makes of them for GPUs that are not here, which is what the
tables show. No GPU has run them: how fast they are is not known. `make gpu` runs the tests on one, and
`benchmarks/kernels.py` times each against torch's operators, `torch.compile`, torch's own fused form and libraries.
"""
ABOUT_TABLES = """The tables: what Triton {version} makes of each for {rows} rows of {columns} columns. Registers are of
one thread; bytes of shared memory for one block; "wide" are the 128-bit instructions that read or write global memory,
"narrow" the others (seeds, targets, one number a row). None of them spills registers.

This page is written by `python docs/kernels.py`.
"""


def page() -> str:
    """The whole text."""
    found = [r for a in ARCHITECTURES for d in DTYPES for r in compiled_as(d, a)]
    spilling = [r for _, r in found if r.local_bytes]
    if spilling:
        raise SystemExit(f"spills registers: {spilling}")
    about = ABOUT_TABLES.format(version=triton.__version__, rows=ROWS, columns=COLUMNS)
    return "\n".join([INTRODUCTION, about, *(line for kernel in KERNELS for line in section(kernel, found))])


def compiled_as(dtype: torch.dtype, architecture: int) -> Iterator[tuple[str, Resources]]:
    """With the dtype's name."""
    name = str(dtype).removeprefix("torch.")
    return ((name, resources) for resources in compiled(dtype, architecture, ROWS, COLUMNS))


def section(kernel: FusedKernel, found: list[tuple[str, Resources]]) -> Iterator[str]:
    """What one kernel replaces, how it is called, its table."""
    yield f"## {kernel.name}"
    yield ""
    yield f"Replaces {kernel.replaces} ({', '.join(f'[{code}](rules.md)' for code in kernel.codes)})."
    yield ""
    yield f"    {kernel.name}{_signature(kernel)}"
    yield ""
    yield inspect.cleandoc(kernel.function.__doc__ or "")
    yield ""
    yield f"Module: `{kernel.module.__name__}`. Operators: {', '.join(f'`{name}`' for name in kernel.operators)}."
    yield ""
    yield "| call | dtype | kernel | registers (8.0, 9.0, 10.0) | shared | wide | narrow |"
    yield "|---|---|---|---|---|---|---|"
    rows: dict[tuple[str, str, str, int], list[Resources]] = {}
    seen: dict[tuple[str, str, str, int], int] = {}
    for dtype, one in found:
        if one.example.startswith(f"{kernel.name}: "):
            times = seen.get((one.example, dtype, one.kernel, one.architecture), 0)
            seen[one.example, dtype, one.kernel, one.architecture] = times + 1
            rows.setdefault((one.example, dtype, one.kernel, times), []).append(one)
    for (example, dtype, name, times), made in rows.items():
        call = example.partition(": ")[2]
        which = name.removesuffix("_kernel") if not times else f"{name.removesuffix('_kernel')}, backward"
        yield f"| {call} | {dtype} | {which} | {_three(made, 'registers')} | {_three(made, 'shared_bytes')} | " + (
            f"{_three(made, 'wide')} | {_three(made, 'narrow')} |"
        )
    yield ""


def _signature(kernel: FusedKernel) -> str:
    """Names and defaults, without types."""
    parameters = inspect.signature(kernel.function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


def _three(made: list[Resources], what: str) -> str:
    """One figure where it is the same on all architectures."""
    found = [str(getattr(one, what)) for one in made]
    return found[0] if len(set(found)) == 1 else ", ".join(found)


if __name__ == "__main__":
    (Path(__file__).parent / "kernels.md").write_text(page())
