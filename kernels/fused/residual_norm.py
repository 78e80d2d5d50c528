"""stream = residual + dropout(x); y = LayerNorm or RMSNorm of stream: both in one pass, and their gradients in one.

Without a residual it is the norm alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from probe.kernels.fused import domain
from probe.kernels.fused.dropout import bad_seed, scale_of, seed_for
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import launch, multiprocessors
from probe.kernels.fused.residual_norm_kernels import backward_kernel, columns_kernel, forward_kernel
from probe.kernels.fused.tiles import WARPS, power_of_2, tile_for

Norm = Literal["layer", "rms"]
WIDEST_ROW = 16384  # beyond it the backward pass would spill registers
WIDEST_WITH_SUMS = 8192  # beyond it the sums for weight and bias do not fit into registers beside the rest
PROGRAMS_PER_MULTIPROCESSOR = 2
NARROWEST_TILE = 16


@dataclass(frozen=True)
class Rows:
    """How many rows, of how many columns, a program holds, and with how many warps."""

    rows: int
    columns: int
    warps: int


def rows_for(columns: int, elements: int, per_thread: int) -> Rows:
    """About `elements` elements, whole rows, `per_thread` of them a thread."""
    width = max(NARROWEST_TILE, power_of_2(columns))
    height = max(1, elements // width)
    return Rows(height, width, min(32, max(4, height * width // (32 * per_thread))))


def norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    kind: Norm = "rms",
    eps: float = 1e-6,
) -> torch.Tensor:
    """LayerNorm ("layer") or RMSNorm ("rms") of the last dimension; x contiguous. Raises as `residual_norm` does."""
    check("norm", domain.no_device(x), _unsuited(x, None, weight, bias, kind, 0.0, None))
    y: torch.Tensor = _forward(x, None, weight, bias, None, kind, eps, 0.0)[0]
    return y


def residual_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    kind: Norm = "rms",
    eps: float = 1e-6,
    p: float = 0.0,
    seed: int | torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of stream = residual + dropout(x, p), and stream; all contiguous, of one size and dtype.

    Raises UnavailableError without a GPU for Triton, UsageError for tensors outside `why_not`.
    """
    check("residual_norm", domain.no_device(x), _unsuited(x, residual, weight, bias, kind, p, seed))
    y, stream, _, _ = _forward(x, residual, weight, bias, seed_for(x, p, seed), kind, eps, p)
    return y, stream


def norm_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    kind: Norm = "rms",
    eps: float = 1e-6,
) -> torch.Tensor:
    """The same in torch's operators; RMSNorm as it is written out by hand, in float32 (float64 for float64)."""
    if kind == "layer":
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)
    wide = x if x.dtype == torch.float64 else x.float()
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def residual_norm_reference(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    kind: Norm = "rms",
    eps: float = 1e-6,
    p: float = 0.0,
    seed: int | torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in torch's operators; its dropout draws from torch's generator and takes no seed."""
    stream = residual + (functional.dropout(x, p) if p else x)
    return norm_reference(stream, weight, bias, kind=kind, eps=eps), stream


def norm_why_not(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *, kind: Norm = "rms",
    eps: float = 1e-6,
) -> str | None:  # fmt: skip
    """Why `norm` cannot be called so; None if it can."""
    return domain.no_device(x) or _unsuited(x, None, weight, bias, kind, 0.0, None)


def residual_norm_why_not(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *,
    kind: Norm = "rms", eps: float = 1e-6, p: float = 0.0, seed: int | torch.Tensor | None = None,
) -> str | None:  # fmt: skip
    """Why `residual_norm` cannot be called so; None if it can."""
    return domain.no_device(x) or _unsuited(x, residual, weight, bias, kind, p, seed)


def _unsuited(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None,
    kind: str, p: float, seed: int | torch.Tensor | None,
) -> str | None:  # fmt: skip
    return (
        domain.unsuited(x)
        or domain.other_kind(x, residual=residual, weight=weight, bias=bias)
        or domain.other_size(residual, tuple(x.shape), "the residual")
        or (None if residual is None or residual.dtype == x.dtype else "the residual has another dtype than x")
        or domain.other_size(weight, (x.shape[-1],), "the weight")
        or domain.other_size(bias, (x.shape[-1],), "the bias")
        or domain.not_contiguous(x=x, residual=residual, weight=weight, bias=bias)
        or (None if x.shape[-1] <= WIDEST_ROW else f"a row has {x.shape[-1]} elements; {WIDEST_ROW} is the most")
        or (None if kind in ("layer", "rms") else f"the norm is {kind!r}; known are 'layer' and 'rms'")
        or domain.bad_probability(p)
        or bad_seed(x, seed)
    )


@torch.library.custom_op("probe::residual_norm", mutates_args=())
def _forward(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None,
    seed: torch.Tensor | None, kind: str, eps: float, p: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    rows, columns = domain.rows(x), x.shape[-1]
    y, stream, mean, rstd = _results(x, residual, kind)
    tile = rows_for(columns, elements=2048, per_thread=16)
    launch(
        forward_kernel, -(-rows // tile.rows), x, x, residual, weight, bias, seed, y, stream, mean, rstd, rows,
        columns, eps, p, scale_of(p), centred=kind == "layer", dropping=seed is not None, tile_rows=tile.rows,
        tile_columns=tile.columns, num_warps=tile.warps,
    )  # fmt: skip
    return y, stream, mean, rstd


def _results(x: torch.Tensor, residual: torch.Tensor | None, kind: str) -> tuple[torch.Tensor, ...]:
    """Room for y, stream, mean and 1/σ; what is not needed has no elements."""
    rows = domain.rows(x)
    stream = torch.empty_like(x) if residual is not None else x.new_empty(0)
    mean = x.new_empty(rows if kind == "layer" else 0, dtype=torch.float32)
    return torch.empty_like(x), stream, mean, x.new_empty(rows, dtype=torch.float32)


@_forward.register_fake
def _(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None,
    seed: torch.Tensor | None, kind: str, eps: float, p: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    y, stream, mean, rstd = _results(x, residual, kind)
    return y, stream, mean, rstd


@torch.library.custom_op("probe::residual_norm_backward", mutates_args=())
def _backward(
    stream: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, seed: torch.Tensor | None,
    mean: torch.Tensor, rstd: torch.Tensor, dy: torch.Tensor, d_stream: torch.Tensor | None, kind: str, p: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of x, of the residual where it is another than that of x, of weight and bias."""
    rows, columns = domain.rows(stream), stream.shape[-1]
    dx = torch.empty_like(stream)
    d_residual = torch.empty_like(stream) if seed is not None else stream.new_empty(0)
    together = columns <= WIDEST_WITH_SUMS
    tile = rows_for(columns, elements=2048, per_thread=16 if together else 32)
    narrow = tile_for(columns, elements=2048)
    step = tile.rows if together else max(tile.rows, narrow.rows)  # both are powers of 2
    strip = -(-rows // (PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(stream) * step)) * step
    strips = -(-rows // strip) if rows else 0
    sums = [stream.new_empty(strips, columns, dtype=torch.float32) if t is not None else None for t in (weight, bias)]
    dy = dy.contiguous()
    launch(
        backward_kernel, strips, stream, stream, weight, seed, mean, rstd, dy,
        d_stream if d_stream is None else d_stream.contiguous(), dx, d_residual, *(sums if together else (None, None)),
        rows, columns, strip, p, scale_of(p), centred=kind == "layer", dropping=seed is not None, tile_rows=tile.rows,
        tile_columns=tile.columns, num_warps=tile.warps,
    )  # fmt: skip
    if not together and (weight is not None or bias is not None):
        launch(
            columns_kernel, strips * narrow.across(columns), stream, stream, mean, rstd, dy, *sums, rows, columns,
            strip, centred=kind == "layer", tile_rows=narrow.rows, tile_columns=narrow.columns, num_warps=WARPS,
        )  # fmt: skip
    d_weight, d_bias = (_summed(s, t, stream) for s, t in zip(sums, (weight, bias), strict=True))
    return dx, d_residual, d_weight, d_bias


def _summed(sums: torch.Tensor | None, like: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(0) if sums is None or like is None else sums.sum(0).to(like.dtype)


@_backward.register_fake
def _(
    stream: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, seed: torch.Tensor | None,
    mean: torch.Tensor, rstd: torch.Tensor, dy: torch.Tensor, d_stream: torch.Tensor | None, kind: str, p: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    d_residual = torch.empty_like(stream) if seed is not None else stream.new_empty(0)
    d_weight, d_bias = (torch.empty_like(t) if t is not None else stream.new_empty(0) for t in (weight, bias))
    return torch.empty_like(stream), d_residual, d_weight, d_bias


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    x, residual, weight, bias, seed, ctx.kind, _, ctx.p = inputs
    _, stream, mean, rstd = output
    ctx.has_residual = residual is not None
    ctx.save_for_backward(stream if ctx.has_residual else x, weight, bias, seed, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, dy: torch.Tensor | None, d_stream: torch.Tensor | None, _mean: Any, _rstd: Any
) -> tuple[Any, ...]:
    stream, weight, bias, seed, mean, rstd = ctx.saved_tensors
    dy = torch.zeros_like(stream) if dy is None else dy
    d_stream = d_stream if ctx.has_residual else None
    dx, d_residual, dw, db = _backward(stream, weight, bias, seed, mean, rstd, dy, d_stream, ctx.kind, ctx.p)
    d_residual = dx if seed is None else d_residual
    return (
        dx, d_residual if ctx.has_residual else None, dw if weight is not None else None,
        db if bias is not None else None, None, None, None, None,
    )  # fmt: skip


_forward.register_autograd(_gradients, setup_context=_remember)


def norm_cost(x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, **_: Any) -> Cost:
    """Forward: x, weight and bias are read, y is written (and one number a row, or two, not counted)."""
    affine = (weight is not None) + (bias is not None)
    return Cost(domain.size_bytes(x, weight, bias), domain.size_bytes(x), x.numel() * (3 + affine))


def norm_backward_cost(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, **_: Any
) -> Cost:
    """Backward: x, the gradient of y and the weight are read, the gradients of x, weight and bias are written."""
    flops = x.numel() * (7 + 3 * (weight is not None) + (bias is not None))
    return Cost(domain.size_bytes(x, x, weight), domain.size_bytes(x, weight, bias), flops)


def residual_norm_cost(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None,
    **_: Any,
) -> Cost:  # fmt: skip
    """Forward: as the norm alone, and the residual is read, the stream is written."""
    alone = norm_cost(x, weight, bias)
    more = domain.size_bytes(residual)
    return Cost(alone.bytes_read + more, alone.bytes_written + more, alone.flops + x.numel())


def residual_norm_backward_cost(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *,
    p: float = 0.0, **_: Any,
) -> Cost:  # fmt: skip
    """Backward: as the norm alone, and the gradient of the stream is read; with dropout two gradients are written."""
    alone = norm_backward_cost(x, weight, bias)
    more = domain.size_bytes(residual)
    return Cost(alone.bytes_read + more, alone.bytes_written + more * (p > 0), alone.flops + x.numel())


class _Affine(nn.Module):
    """Weight, and bias for LayerNorm."""

    def __init__(self, features: int, kind: Norm = "rms", eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features)) if kind == "layer" else None
        self.kind, self.eps = kind, eps


class FusedNorm(_Affine):
    """LayerNorm or RMSNorm.

    Where the kernel cannot run (`norm_why_not`) it computes the same with torch's operators.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of x."""
        way = norm_reference if norm_why_not(x, self.weight, self.bias, kind=self.kind) else norm
        return way(x, self.weight, self.bias, kind=self.kind, eps=self.eps)


class ResidualNorm(_Affine):
    """Norm of residual + dropout(x), and that sum.

    Where the kernel cannot run (`residual_norm_why_not`) it computes the same with torch's operators.
    """

    def __init__(self, features: int, kind: Norm = "rms", eps: float = 1e-6, p: float = 0.0) -> None:
        super().__init__(features, kind, eps)
        self.p = p

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normed sum and the sum; dropout in training only."""
        p = self.p if self.training else 0.0
        reason = residual_norm_why_not(x, residual, self.weight, self.bias, kind=self.kind, p=p)
        way = residual_norm_reference if reason else residual_norm
        return way(x, residual, self.weight, self.bias, kind=self.kind, eps=self.eps, p=p)


OPERATORS = ("probe::residual_norm", "probe::residual_norm_backward")
NORM = FusedKernel(
    name="norm",
    replaces="RMSNorm or LayerNorm written out by hand",
    codes=("F04", "F05"),
    function=norm,
    reference=norm_reference,
    why_not=norm_why_not,
    cost=norm_cost,
    backward_cost=norm_backward_cost,
    module=FusedNorm,
    operators=OPERATORS,
)
RESIDUAL_NORM = FusedKernel(
    name="residual_norm",
    replaces="a residual added (after dropout) in a pass of its own before RMSNorm or LayerNorm",
    codes=("F03",),
    function=residual_norm,
    reference=residual_norm_reference,
    why_not=residual_norm_why_not,
    cost=residual_norm_cost,
    backward_cost=residual_norm_backward_cost,
    module=ResidualNorm,
    operators=OPERATORS,
)
