"""y = activation(gate) · up, as in SwiGLU, GeGLU and ReGLU: one pass, and one for both gradients.

`gate` and `up` are two tensors, or the halves of one (`packed`), as one product with the weights of both gives them.
The backward pass computes the activation again.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn

from probe.kernels.fused import domain
from probe.kernels.fused.activations import ACTIVATIONS, FLOPS, activated, slope, unknown
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import launch
from probe.kernels.fused.tiles import WARPS, tile_for

ELEMENTS = 2048


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    gate, up, y, rows, columns, row_step,
    activation: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """One tile of y; `row_step` lies between two rows of gate and of up."""
    across = tl.cdiv(columns, tile_columns)
    row = tl.program_id(0) // across * tile_rows + tl.arange(0, tile_rows)
    column = tl.program_id(0) % across * tile_columns + tl.arange(0, tile_columns)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    at = row.to(tl.int64)[:, None] * row_step + column[None, :]
    a = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(y + at, (activated(a, activation) * b).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(
    gate, up, dy, d_gate, d_up, rows, columns, row_step,
    activation: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """One tile of both gradients, which lie as gate and up do."""
    across = tl.cdiv(columns, tile_columns)
    row = tl.program_id(0) // across * tile_rows + tl.arange(0, tile_rows)
    column = tl.program_id(0) % across * tile_columns + tl.arange(0, tile_columns)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    at = row.to(tl.int64)[:, None] * row_step + column[None, :]
    a = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(dy + row.to(tl.int64)[:, None] * columns + column[None, :], mask=inside, other=0.0)
    gradient = gradient.to(tl.float32)
    of_gate = gradient * b * slope(a, activation)
    tl.store(d_gate + at, of_gate.to(d_gate.dtype.element_ty), mask=inside)
    tl.store(d_up + at, (gradient * activated(a, activation)).to(d_up.dtype.element_ty), mask=inside)


def gated_activation(gate: torch.Tensor, up: torch.Tensor | None = None, *, activation: str = "silu") -> torch.Tensor:
    """activation(gate) · up; both contiguous and of one size. `up` None takes the halves of the last dimension of gate.

    Raises UnavailableError without a GPU for Triton, UsageError for tensors outside `why_not`.
    """
    check("gated_activation", domain.no_device(gate), _unsuited(gate, up, activation))
    y: torch.Tensor = _forward(gate, up, activation)
    return y


def reference(gate: torch.Tensor, up: torch.Tensor | None = None, *, activation: str = "silu") -> torch.Tensor:
    """The same in torch's operators."""
    if up is None:
        gate, up = gate.chunk(2, -1)
    return ACTIVATIONS[activation](gate) * up


def why_not(gate: torch.Tensor, up: torch.Tensor | None = None, *, activation: str = "silu") -> str | None:
    """Why the kernel cannot be called so; None if it can."""
    return domain.no_device(gate) or _unsuited(gate, up, activation)


def _unsuited(gate: torch.Tensor, up: torch.Tensor | None, activation: str) -> str | None:
    return (
        domain.unsuited(gate, "the gate")
        or domain.other_kind(gate, up=up)
        or domain.other_size(up, tuple(gate.shape), "up")
        or (None if up is None or up.dtype == gate.dtype else "up has another dtype than the gate")
        or ("the packed size is odd" if up is None and gate.shape[-1] % 2 else None)
        or domain.not_contiguous(gate=gate, up=up)
        or unknown(activation)
    )


def _parts(gate: torch.Tensor, up: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """gate, up and their columns, whether packed or not; halves start where the first element of up lies."""
    if up is not None:
        return gate, up, gate.shape[-1]
    columns = gate.shape[-1] // 2
    return gate, gate.narrow(-1, columns, columns), columns


@torch.library.custom_op("probe::gated_activation", mutates_args=())
def _forward(gate: torch.Tensor, up: torch.Tensor | None, activation: str) -> torch.Tensor:
    rows, row_step = domain.rows(gate), gate.shape[-1]
    a, b, columns = _parts(gate, up)
    y = gate.new_empty((*gate.shape[:-1], columns))
    tile = tile_for(columns, ELEMENTS)
    launch(
        forward_kernel, tile.down(rows) * tile.across(columns), gate, a, b, y, rows, columns, row_step,
        activation=activation, tile_rows=tile.rows, tile_columns=tile.columns, num_warps=WARPS,
    )  # fmt: skip
    return y


@_forward.register_fake
def _(gate: torch.Tensor, up: torch.Tensor | None, activation: str) -> torch.Tensor:
    return gate.new_empty((*gate.shape[:-1], gate.shape[-1] if up is not None else gate.shape[-1] // 2))


@torch.library.custom_op("probe::gated_activation_backward", mutates_args=())
def _backward(
    gate: torch.Tensor, up: torch.Tensor | None, dy: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and of up; packed as gate is, and then the second has no elements."""
    rows, row_step = domain.rows(gate), gate.shape[-1]
    a, b, columns = _parts(gate, up)
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up) if up is not None else None
    da, db, _ = _parts(d_gate, d_up)
    tile = tile_for(columns, ELEMENTS)
    launch(
        backward_kernel, tile.down(rows) * tile.across(columns), gate, a, b, dy.contiguous(), da, db, rows, columns,
        row_step, activation=activation, tile_rows=tile.rows, tile_columns=tile.columns, num_warps=WARPS,
    )  # fmt: skip
    return d_gate, d_up if d_up is not None else gate.new_empty(0)


@_backward.register_fake
def _(
    gate: torch.Tensor, up: torch.Tensor | None, dy: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(gate), torch.empty_like(up) if up is not None else gate.new_empty(0)


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


def _gradients(ctx: Any, dy: torch.Tensor) -> Any:
    gate, up = ctx.saved_tensors
    d_gate, d_up = _backward(gate, up, dy, ctx.activation)
    return d_gate, d_up if up is not None else None, None


_forward.register_autograd(_gradients, setup_context=_remember)


def cost(gate: torch.Tensor, up: torch.Tensor | None = None, *, activation: str = "silu") -> Cost:
    """Forward: gate and up are read, y is written."""
    read = domain.size_bytes(gate, up)
    elements = gate.numel() if up is not None else gate.numel() // 2
    return Cost(read, read // 2, elements * (FLOPS[activation][0] + 1))


def backward_cost(gate: torch.Tensor, up: torch.Tensor | None = None, *, activation: str = "silu") -> Cost:
    """Backward: gate, up and the gradient of y are read, the gradients of gate and up are written."""
    read = domain.size_bytes(gate, up)
    elements = gate.numel() if up is not None else gate.numel() // 2
    return Cost(read + read // 2, read, elements * (sum(FLOPS[activation]) + 3))


class GatedActivation(nn.Module):
    """activation(gate) · up of two tensors or of the halves of one.

    Where the kernel cannot run (`why_not`) it computes the same with torch's operators.
    """

    def __init__(self, activation: str = "silu") -> None:
        super().__init__()
        self.activation = activation

    def forward(self, gate: torch.Tensor, up: torch.Tensor | None = None) -> torch.Tensor:
        """activation(gate) · up."""
        way = reference if why_not(gate, up, activation=self.activation) else gated_activation
        return way(gate, up, activation=self.activation)


KERNEL = FusedKernel(
    name="gated_activation",
    replaces="SwiGLU, GeGLU or ReGLU as an activation and a product in passes of their own",
    codes=("F12",),
    function=gated_activation,
    reference=reference,
    why_not=why_not,
    cost=cost,
    backward_cost=backward_cost,
    module=GatedActivation,
    operators=("probe::gated_activation", "probe::gated_activation_backward"),
)
