"""y = a x + y in Triton: one block of elements a program, each thread as many neighbouring ones as fill its share."""

from typing import Any

import torch
import triton
import triton.language as tl

from probe.errors import UsageError
from probe.kernels.triton.launching import FUSED, on_device_of

BLOCK, WARPS = 1024, 4  # 8 elements a thread: two 128-bit loads of float32


@triton.jit
def saxpy_kernel(x, y, a, n, block: tl.constexpr):
    """Program i handles elements [i · block, (i + 1) · block); those past `n` are left alone."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < n
    result = a * tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside)
    tl.store(y + at, result, mask=inside)


def saxpy(x: torch.Tensor, y: torch.Tensor, a: float, *, block: int = BLOCK, warps: int = WARPS) -> Any:
    """Overwrite `y` with a x + y, elementwise; float32 tensors of one size, contiguous, on one GPU.

    Returns what Triton compiled (None under its interpreter). `block` is a power of two.
    """
    if x.shape != y.shape or x.dtype != torch.float32 or y.dtype != torch.float32 or x.device != y.device:
        raise UsageError("saxpy: x and y differ in size, device or are not float32; pass two alike")
    if not (x.is_contiguous() and y.is_contiguous()):
        raise UsageError("saxpy: x or y is not contiguous; pass .contiguous() ones")
    with on_device_of(x, saxpy_kernel):
        grid = (triton.cdiv(x.numel(), block),)
        return saxpy_kernel[grid](x, y, a, x.numel(), block=block, num_warps=warps, **FUSED) if x.numel() else None
