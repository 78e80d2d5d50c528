"""Which tensors do the fused kernels take? Each question is answered with None, or with what is wrong in one line."""

from __future__ import annotations

import torch

from probe.kernels.fused.launch import without_gpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FIRST_CAPABILITY = (8, 0)
MOST_ROWS = 2**31 - 1  # positions of rows and columns are 32-bit integers, addresses have 64 bits


def no_device(tensor: torch.Tensor) -> str | None:
    """Why Triton cannot run on the tensor's device."""
    if without_gpu():
        return None
    if not tensor.is_cuda:
        where = f"a Triton kernel cannot run on {tensor.device.type} tensors"
        return f"{where}; move them to a GPU, or start with TRITON_INTERPRET=1 set"
    major, minor = torch.cuda.get_device_capability(tensor.device)
    if (major, minor) < FIRST_CAPABILITY:
        return f"the GPU has compute capability {major}.{minor}; 8.0 is the least"
    return None


def unsuited(tensor: torch.Tensor, name: str = "the input") -> str | None:
    """Why the dtype or size of a tensor is not taken."""
    if tensor.dtype not in DTYPES:
        return f"{name} is {_short(tensor)}; float32, float16 and bfloat16 are taken"
    if tensor.dim() == 0:
        return f"{name} has no dimension"
    if tensor.numel() and (rows(tensor) > MOST_ROWS or tensor.shape[-1] > MOST_ROWS):
        return f"{name} has more than {MOST_ROWS} rows or columns"
    return None


def not_contiguous(**tensors: torch.Tensor | None) -> str | None:
    """The first tensor that is not contiguous."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            return f"{name} is not contiguous; pass .contiguous()"
    return None


def other_size(tensor: torch.Tensor | None, sizes: tuple[int, ...], name: str) -> str | None:
    """Whether a tensor that may be missing has other sizes than those."""
    if tensor is None or tuple(tensor.shape) == sizes:
        return None
    return f"{name} has the sizes {list(tensor.shape)} instead of {list(sizes)}"


def other_kind(first: torch.Tensor, **others: torch.Tensor | None) -> str | None:
    """The first tensor that is on another device than `first`, or of a dtype that is not taken."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            return f"{name} is on {tensor.device}, the input on {first.device}"
        if tensor is not None and tensor.dtype not in DTYPES:
            return f"{name} is {_short(tensor)}; float32, float16 and bfloat16 are taken"
    return None


def bad_probability(p: float) -> str | None:
    """Whether p is no probability."""
    return None if 0.0 <= p <= 1.0 else f"p is {p}; it must lie between 0 and 1"


def rows(tensor: torch.Tensor) -> int:
    """All dimensions but the last, as one."""
    return tensor.numel() // tensor.shape[-1] if tensor.numel() else 0


def size_bytes(*tensors: torch.Tensor | None) -> int:
    """Of all of them together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def _short(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
