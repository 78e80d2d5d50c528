"""What is one call of attention: its tensors, what they must be, and what every kernel is told of them?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from probe.errors import UnavailableError, UsageError
from probe.kernels.triton.attention_tiles import FIRST_ARCHITECTURE, INTERPRETED, Pass, Tiles, head_dims, tiles_for
from probe.kernels.triton.launching import FUSED

LOG2_E = math.log2(math.e)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Problem:
    """q of sizes [batch, heads, queries, head_dim], k and v of [batch, heads, keys, head_dim], rows contiguous."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool
    scale: float

    @property
    def queries(self) -> int:
        """Positions that ask."""
        return self.q.shape[2]

    @property
    def keys(self) -> int:
        """Positions that are asked."""
        return self.k.shape[2]

    @property
    def head_dim(self) -> int:
        """Elements of a row."""
        return self.q.shape[3]

    @property
    def slices(self) -> int:
        """Heads of all batches together, each a problem of its own."""
        return self.q.shape[0] * self.q.shape[1]

    @property
    def scale_log2(self) -> float:
        """The scale of scores that are exponents of 2."""
        return self.scale * LOG2_E

    def tiles(self, direction: Pass) -> Tiles:
        """Those of the GPU that holds the tensors."""
        architecture = architecture_of(self.q)
        if architecture == INTERPRETED or architecture >= FIRST_ARCHITECTURE:
            return tiles_for(direction, self.head_dim, self.q.element_size(), architecture)
        had = f"{architecture // 10}.{architecture % 10}"
        raise UnavailableError(f"attention in Triton needs compute capability 8.0, this GPU has {had}; use torch's")


def problem(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None) -> Problem:
    """The call with its tensors' rows made contiguous; `scale` None is 1 / √head_dim. Raises UsageError."""
    sizes = f"{list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
    if q.ndim != 4 or k.shape != v.shape or (q.shape[:2], q.shape[3:]) != (k.shape[:2], k.shape[3:]):
        raise UsageError(f"attention: q, k, v are {sizes}; they must be [batch, heads, positions, head_dim], k like v")
    if len({(t.dtype, t.device) for t in (q, k, v)}) > 1 or q.dtype not in DTYPES:
        raise UsageError("attention: q, k, v must be on one device and all float32, float16 or bfloat16")
    possible = head_dims(q.element_size())
    if q.shape[3] not in possible:
        names = ", ".join(map(str, possible))
        raise UsageError(f"attention: head_dim is {q.shape[3]}; with this dtype it must be one of {names}")
    chosen = scale if scale is not None else q.shape[3] ** -0.5
    if not 0 < chosen < math.inf:
        raise UsageError(f"attention: scale is {chosen:g}; it must be above 0")
    return Problem(with_rows(q), with_rows(k), with_rows(v), causal, chosen)


def with_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, copied where the elements of a row do not lie side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def strides(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Of batch, head and row of each, in elements: what the kernels take."""
    return tuple(step for tensor in tensors for step in tensor.stride()[:3])


def architecture_of(tensor: torch.Tensor) -> int:
    """Ten times the compute capability of the tensor's GPU; 0 where there is none."""
    if not tensor.is_cuda:
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def constants(tiles: Tiles, call: Problem) -> dict[str, Any]:
    """What the code of a kernel is specialised for, and what Triton is told of its launch."""
    return {
        "head_dim": call.head_dim,
        "tile_q": tiles.queries,
        "tile_k": tiles.keys,
        "causal": call.causal,
        "wide": not call.q.is_cuda and call.q.dtype == torch.bfloat16,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        **FUSED,
    }
