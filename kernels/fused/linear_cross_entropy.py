"""Cross-entropy of a linear layer's logits, chunk by chunk of rows: the logits are never held as a whole.

The forward pass computes the gradients too, while the logits of a chunk are there: their gradient takes their place,
and two products give what the chunk adds to the gradients of x and weight. The backward pass only multiplies them by
the gradient of the loss. Time is spent (the products are smaller, and they are done even if nobody calls backward)
for memory: what is held beside the inputs is one chunk of logits, the gradient of x, and that of the weight in float32.

The products are torch's. What lies between is one Triton kernel on a GPU, and torch's operators on a CPU.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from probe.kernels.fused import domain
from probe.kernels.fused.cross_entropy_rows import Loss, by_torch, wide
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import without_gpu

Reduction = Literal["mean", "sum"]
CHUNK_BYTES = 128 << 20  # of logits, where the caller does not say how many rows
ROWS_STEP = 128  # a chunk is a multiple of it, for the products
IGNORE_INDEX = -100


def chunk_rows_for(columns: int, itemsize: int) -> int:
    """Rows of one chunk, whose logits take about CHUNK_BYTES."""
    return max(1, CHUNK_BYTES // (columns * itemsize) // ROWS_STEP) * ROWS_STEP


@torch.library.custom_op("probe::linear_cross_entropy", mutates_args=())
def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor, ignore_index: int,
    label_smoothing: float, mean: bool, softcap: float, chunk_rows: int, of_x: bool, of_weight: bool, of_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The loss; gradients of its sum for x, weight (float32) and bias (float32); and what the sum is divided by, once.

    x is [rows, features]. Gradients that are not wanted have no elements.
    """
    how = Loss(ignore_index, label_smoothing, softcap)
    by_row = by_torch
    if (x.is_cuda or without_gpu()) and x.dtype in domain.DTYPES:
        from probe.kernels.fused.cross_entropy_kernel import by_kernel as by_row
    dx, dw, db = _gradients_of(x, weight, bias, of_x, of_weight, of_bias)
    losses = wide(x.new_empty(0)).new_empty(len(x))
    for first in range(0, len(x), chunk_rows):
        some = slice(first, first + chunk_rows)
        rows = x[some]
        logits = functional.linear(rows, weight, bias)
        losses[some] = by_row(logits, target[some], how, of_x or of_weight or of_bias)
        if of_x:
            torch.mm(logits, weight, out=dx[some])
        if of_weight:
            _add_product(dw, logits.t(), rows)
        if of_bias:
            db += logits.sum(0, dtype=db.dtype)
    count = (target != ignore_index).sum().to(losses.dtype)
    scale = 1.0 / count if mean else torch.ones_like(count)
    loss = losses.sum() * scale  # of nothing but ignored targets: 0 · inf, NaN as torch's mean
    return loss, dx, dw, db, torch.where(count > 0, scale, torch.zeros_like(scale))


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a b; of half types each product is rounded once, the sum is not."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _gradients_of(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, of_x: bool, of_weight: bool, of_bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Room for the gradients."""
    summed = torch.promote_types(weight.dtype, torch.float32)
    dx = x.new_empty(x.shape if of_x else 0)
    dw = weight.new_zeros(weight.shape if of_weight else 0, dtype=summed)
    return dx, dw, weight.new_zeros(weight.shape[0] if of_bias else 0, dtype=summed)


@_forward.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor, ignore_index: int,
    label_smoothing: float, mean: bool, softcap: float, chunk_rows: int, of_x: bool, of_weight: bool, of_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    one = x.new_empty((), dtype=torch.promote_types(x.dtype, torch.float32))
    dx, dw, db = _gradients_of(x, weight, bias, of_x, of_weight, of_bias)
    return one, dx, dw, db, torch.empty_like(one)


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, *_, of_x, of_weight, of_bias = inputs
    _, dx, dw, db, scale = output
    ctx.wanted = (of_x, of_weight, of_bias)
    ctx.dtypes = (x.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype)
    ctx.save_for_backward(dx, dw, db, scale)
    ctx.mark_non_differentiable(dx, dw, db, scale)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, d_loss: torch.Tensor | None, *_: Any) -> Any:
    *found, scale = ctx.saved_tensors
    none = (None,) * 8
    if d_loss is None:
        return None, None, None, None, *none
    factor = d_loss * scale
    dx, dw, db = (
        (gradient * factor).to(dtype) if wanted else None
        for gradient, dtype, wanted in zip(found, ctx.dtypes, ctx.wanted, strict=True)
    )
    return dx, dw, db, None, *none


_forward.register_autograd(_gradients, setup_context=_remember)


def linear_cross_entropy(
    x: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """cross_entropy(linear(x, weight, bias), target) with its gradients; float32, or float64 for float64.

    x [..., features], weight [classes, features], target [...] of int64. `softcap` takes cap · tanh(logits / cap).
    On a GPU a target that is no class gives NaN. No second derivatives. Raises UsageError for tensors outside
    `why_not`, UnavailableError on a device that is neither a CPU nor a GPU for Triton.
    """
    reason = _unsuited(x, weight, target, bias, label_smoothing, reduction, softcap, chunk_rows)
    check("linear_cross_entropy", _no_device(x), reason)
    flat = x.reshape(-1, x.shape[-1])
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (x, weight, bias)]
    rows = chunk_rows or chunk_rows_for(weight.shape[0], x.element_size())
    loss: torch.Tensor = _forward(
        flat, weight, bias, target.reshape(-1), ignore_index, label_smoothing, reduction == "mean", softcap or 0.0,
        rows, *wanted,
    )[0]  # fmt: skip
    return loss


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """The same in torch's operators, with all logits at once."""
    logits = wide(functional.linear(x, weight, bias))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return functional.cross_entropy(
        logits.reshape(-1, weight.shape[0]), target.reshape(-1), ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing,
    )  # fmt: skip


def why_not(
    x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None = None, *,
    ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0, reduction: Reduction = "mean",
    softcap: float | None = None, chunk_rows: int | None = None,
) -> str | None:  # fmt: skip
    """Why it cannot be called so; None if it can."""
    return _no_device(x) or _unsuited(x, weight, target, bias, label_smoothing, reduction, softcap, chunk_rows)


def _no_device(x: torch.Tensor) -> str | None:
    return None if x.device.type == "cpu" else domain.no_device(x)


def _unsuited(
    x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None, label_smoothing: float,
    reduction: str, softcap: float | None, chunk_rows: int | None,
) -> str | None:  # fmt: skip
    return (
        _wrong_dtypes(x, weight, target, bias)
        or domain.other_size(weight, (*weight.shape[:1], x.shape[-1]), "the weight")
        or domain.other_size(bias, tuple(weight.shape[:1]), "the bias")
        or domain.other_size(target, tuple(x.shape[:-1]), "the target")
        or (None if weight.shape[0] > 0 else "there are no classes")
        or (None if reduction in ("mean", "sum") else f"the reduction is {reduction!r}; known are 'mean' and 'sum'")
        or (None if 0.0 <= label_smoothing <= 1.0 else f"label_smoothing is {label_smoothing}; 0 to 1 is possible")
        or (None if softcap is None or softcap > 0 else f"softcap is {softcap}; it must be above 0")
        or (None if chunk_rows is None or chunk_rows > 0 else f"chunk_rows is {chunk_rows}; 1 is the least")
    )


def _wrong_dtypes(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None) -> str | None:
    known = domain.DTYPES if x.is_cuda else (*domain.DTYPES, torch.float64)
    others = [weight, *([bias] if bias is not None else [])]
    if x.dtype not in known or any(other.dtype != x.dtype for other in others):
        return "x, weight and bias must be of one dtype: float32, float16 or bfloat16 (float64 on a CPU)"
    if target.dtype != torch.int64:
        return f"the target is {str(target.dtype).removeprefix('torch.')}; it must be int64"
    if any(other.device != x.device for other in (*others, target)):
        return "the tensors are on different devices"
    return None if x.dim() else "the input has no dimension"


def cost(
    x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None = None, **_: Any
) -> Cost:
    """Forward with the gradients: the inputs are read; the gradients are written, that of the weight in float32.

    The chunk of logits, which caches do not hold, is read and written several times beyond that.
    """
    rows, (classes, features) = x.numel() // max(1, x.shape[-1]), weight.shape
    written = domain.size_bytes(x) + 4 * weight.numel()
    return Cost(domain.size_bytes(x, weight, target, bias), written, 6 * rows * classes * features)


def backward_cost(
    x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None = None, **_: Any
) -> Cost:
    """Backward: the gradients of the forward pass are read, multiplied and written."""
    read = domain.size_bytes(x) + 4 * weight.numel()
    return Cost(read, domain.size_bytes(x, weight), x.numel() + weight.numel())


class LinearCrossEntropy(nn.Module):
    """A linear layer and the cross-entropy of its logits.

    On a device that the function does not know (`why_not`) it computes the same with torch's operators, at once.
    """

    def __init__(self, features: int, classes: int, bias: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__()
        made = nn.Linear(features, classes, bias=bias)
        self.weight, self.bias = made.weight, made.bias
        self.reduction: Reduction = reduction

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        reason = why_not(x, self.weight, target, self.bias, reduction=self.reduction)
        way = reference if reason else linear_cross_entropy
        return way(x, self.weight, target, self.bias, reduction=self.reduction)


KERNEL = FusedKernel(
    name="linear_cross_entropy",
    replaces="a linear layer and cross-entropy that hold all logits of a large vocabulary, often in float32 too",
    codes=("F09", "F10"),
    function=linear_cross_entropy,
    reference=reference,
    why_not=why_not,
    cost=cost,
    backward_cost=backward_cost,
    module=LinearCrossEntropy,
    operators=("probe::linear_cross_entropy",),
    on_cpu=True,
)
