"""Where does a Triton kernel run, and with what options? On the GPU of its tensors, or in Triton's interpreter."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from triton import JITFunction

from probe.errors import UnavailableError

FUSED = {"enable_fp_fusion": True}  # a multiplication and an addition in one instruction, whatever Triton's default


def on_device_of(tensor: torch.Tensor, kernel: Any) -> AbstractContextManager[object]:
    """Make the tensor's GPU the current one: Triton launches on that one's current stream.

    Raises UnavailableError for a tensor that is on no GPU, unless `kernel` is interpreted.
    """
    if tensor.is_cuda:
        return torch.cuda.device(tensor.device)
    if not isinstance(kernel, JITFunction):
        return contextlib.nullcontext()
    where = f"a Triton kernel cannot run on {tensor.device.type} tensors"
    raise UnavailableError(f"{where}; move them to a GPU, or start with TRITON_INTERPRET=1 set")
