"""y = dropout(activation(x + bias)) in one pass, and its gradients in one pass and a sum over partial sums.

Everything is computed in float32 and rounded once. The backward pass reads x and the gradient of y and computes the
rest again. The gradient of the bias is summed in two stages of fixed order, so that it is the same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn
from torch.nn import functional

from probe.kernels.fused import domain
from probe.kernels.fused.activations import ACTIVATIONS, FLOPS, activated, slope, unknown
from probe.kernels.fused.dropout import bad_seed, kept, scale_of, seed_for
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import launch, multiprocessors
from probe.kernels.fused.tiles import WARPS, tile_for

STRIPS_PER_MULTIPROCESSOR = 4
BACKWARD_ELEMENTS = 2048


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    x, bias, seed, y, rows, columns, p, scale,
    activation: tl.constexpr, dropping: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """One tile of y."""
    across = tl.cdiv(columns, tile_columns)
    row = tl.program_id(0) // across * tile_rows + tl.arange(0, tile_rows)
    first_column = tl.program_id(0) % across * tile_columns
    column = first_column + tl.arange(0, tile_columns)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    value = activated(value, activation)
    if dropping:
        value = tl.where(kept(tl.load(seed), row, first_column, p, tile_rows, tile_columns), value * scale, 0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "strip"])
def backward_kernel(
    x, bias, seed, dy, dx, partial_sums, rows, columns, strip, p, scale,
    activation: tl.constexpr, dropping: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """dx of `strip` rows of a tile's columns, and what they add to the gradient of the bias."""
    across = tl.cdiv(columns, tile_columns)
    which = tl.program_id(0) // across
    first_column = tl.program_id(0) % across * tile_columns
    column = first_column + tl.arange(0, tile_columns)
    offset = tl.zeros((tile_columns,), tl.float32)
    if bias is not None:
        offset = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    total = tl.zeros((tile_rows, tile_columns), tl.float32)
    for first in range(which * strip, tl.minimum((which + 1) * strip, rows), tile_rows):
        row = first + tl.arange(0, tile_rows)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + offset[None, :]
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if dropping:
            stays = kept(tl.load(seed), row, first_column, p, tile_rows, tile_columns)
            gradient = tl.where(stays, gradient * scale, 0.0)
        gradient = gradient * slope(value, activation)
        tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=inside)
        if bias is not None:
            total += tl.where(inside, gradient, 0.0)
    if bias is not None:
        at = tl.cast(which, tl.int64) * columns + column
        tl.store(partial_sums + at, tl.sum(total, 0), mask=column < columns)


@torch.library.custom_op("probe::bias_activation", mutates_args=())
def _forward(
    x: torch.Tensor, bias: torch.Tensor | None, seed: torch.Tensor | None, activation: str, p: float
) -> torch.Tensor:
    y = torch.empty_like(x)
    rows, columns = domain.rows(x), x.shape[-1]
    tile = tile_for(columns)
    launch(
        forward_kernel, tile.down(rows) * tile.across(columns), x, x, bias, seed, y, rows, columns, p, scale_of(p),
        activation=activation, dropping=seed is not None, tile_rows=tile.rows, tile_columns=tile.columns,
        num_warps=WARPS,
    )  # fmt: skip
    return y


@_forward.register_fake
def _(x: torch.Tensor, bias: torch.Tensor | None, seed: torch.Tensor | None, activation: str, p: float) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("probe::bias_activation_backward", mutates_args=())
def _backward(
    x: torch.Tensor, bias: torch.Tensor | None, seed: torch.Tensor | None, dy: torch.Tensor, activation: str, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = domain.rows(x), x.shape[-1]
    dx, dy = torch.empty_like(x), dy.contiguous()
    tile = tile_for(columns, BACKWARD_ELEMENTS)
    wanted = max(1, STRIPS_PER_MULTIPROCESSOR * multiprocessors(x) // max(1, tile.across(columns)))
    strip = -(-tile.down(rows) // wanted) * tile.rows
    strips = -(-rows // strip) if rows else 0
    sums = x.new_empty((strips, columns) if bias is not None else (0, columns), dtype=torch.float32)
    launch(
        backward_kernel, strips * tile.across(columns), x, x, bias, seed, dy, dx, sums, rows, columns, strip, p,
        scale_of(p), activation=activation, dropping=seed is not None, tile_rows=tile.rows, tile_columns=tile.columns,
        num_warps=WARPS,
    )  # fmt: skip
    return dx, sums.sum(0).to(bias.dtype) if bias is not None else x.new_empty(0)


@_backward.register_fake
def _(
    x: torch.Tensor, bias: torch.Tensor | None, seed: torch.Tensor | None, dy: torch.Tensor, activation: str, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(bias) if bias is not None else x.new_empty(0)


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    x, bias, seed, ctx.activation, ctx.p = inputs
    ctx.save_for_backward(x, bias, seed)


def _gradients(ctx: Any, dy: torch.Tensor) -> Any:
    x, bias, seed = ctx.saved_tensors
    dx, db = _backward(x, bias, seed, dy, ctx.activation, ctx.p)
    return dx, db if bias is not None else None, None, None, None


_forward.register_autograd(_gradients, setup_context=_remember)


def bias_activation(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str = "gelu",
    p: float = 0.0,
    seed: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """dropout(activation(x + bias), p); x [..., n] contiguous, bias [n]; activation "gelu", "silu", "relu", … .

    The same `seed` keeps the same elements; None draws one. Raises UnavailableError without a GPU for Triton,
    UsageError for tensors outside `why_not`.
    """
    check("bias_activation", domain.no_device(x), _unsuited(x, bias, activation, p, seed))
    y: torch.Tensor = _forward(x, bias, seed_for(x, p, seed), activation, p)
    return y


def reference(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str = "gelu",
    p: float = 0.0,
    seed: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """The same in torch's operators; its dropout draws from torch's generator and takes no seed."""
    y = ACTIVATIONS[activation](x if bias is None else x + bias)
    return functional.dropout(y, p) if p else y


def why_not(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str = "gelu",
    p: float = 0.0,
    seed: int | torch.Tensor | None = None,
) -> str | None:
    """Why the kernel cannot be called so; None if it can."""
    return domain.no_device(x) or _unsuited(x, bias, activation, p, seed)


def _unsuited(
    x: torch.Tensor, bias: torch.Tensor | None, activation: str, p: float, seed: int | torch.Tensor | None
) -> str | None:
    return (
        domain.unsuited(x)
        or domain.other_kind(x, bias=bias)
        or domain.other_size(bias, (x.shape[-1],), "the bias")
        or domain.not_contiguous(x=x, bias=bias)
        or unknown(activation)
        or domain.bad_probability(p)
        or bad_seed(x, seed)
    )


def cost(x: torch.Tensor, bias: torch.Tensor | None = None, *, activation: str = "gelu", **_: Any) -> Cost:
    """Forward: x and the bias are read, y is written."""
    flops = x.numel() * (FLOPS[activation][0] + (bias is not None))
    return Cost(domain.size_bytes(x, bias), domain.size_bytes(x), flops)


def backward_cost(x: torch.Tensor, bias: torch.Tensor | None = None, *, activation: str = "gelu", **_: Any) -> Cost:
    """Backward: x, the bias and the gradient of y are read, the gradients of x and bias are written."""
    flops = x.numel() * (FLOPS[activation][1] + 1 + 2 * (bias is not None))
    return Cost(domain.size_bytes(x, x, bias), domain.size_bytes(x, bias), flops)


class BiasActivation(nn.Module):
    """A bias of its own, activation and dropout, for behind a Linear(bias=False).

    Where the kernel cannot run (`why_not`) it computes the same with torch's operators.
    """

    def __init__(self, features: int, activation: str = "gelu", p: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))
        self.activation, self.p = activation, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """dropout(activation(x + bias)); dropout in training only."""
        p = self.p if self.training else 0.0
        way = reference if why_not(x, self.bias, activation=self.activation, p=p) else bias_activation
        return way(x, self.bias, activation=self.activation, p=p)


KERNEL = FusedKernel(
    name="bias_activation",
    replaces="a bias, an activation (gelu, silu, relu) and dropout in passes of their own",
    codes=("F02",),
    function=bias_activation,
    reference=reference,
    why_not=why_not,
    cost=cost,
    backward_cost=backward_cost,
    module=BiasActivation,
    operators=("probe::bias_activation", "probe::bias_activation_backward"),
)
