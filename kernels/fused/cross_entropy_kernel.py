"""The cross-entropy of rows of logits in Triton: a program reads its row twice and leaves the gradient in its place."""

import torch
import triton
import triton.language as tl

from probe.kernels.fused.cross_entropy_rows import Loss
from probe.kernels.fused.launch import launch

BLOCK, WARPS = 4096, 8


@triton.jit
def capped(value, softcap, with_cap: tl.constexpr):
    """softcap · tanh(value / softcap)."""
    if with_cap:
        value = softcap * (2.0 * tl.sigmoid(2.0 * value / softcap) - 1.0)
    return value


@triton.jit
def rows_kernel(
    logits, target, loss, columns, ignore_index, smoothing, softcap,
    with_cap: tl.constexpr, with_gradients: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The loss of one row; its logits are overwritten by their gradients. A target that is no class gives NaN."""
    row = tl.cast(tl.program_id(0), tl.int64)
    logits += row * columns
    label = tl.load(target + row)
    ignored = label == ignore_index
    known = (label >= 0) & (label < columns)
    at_label = tl.load(logits + tl.where(known, label, 0)).to(tl.float32)
    at_label = tl.where(known, capped(at_label, softcap, with_cap), float("nan"))
    largest, total, sum_of_all = float("-inf"), 0.0, 0.0
    for start in range(0, columns, block):
        column = start + tl.arange(0, block)
        value = tl.load(logits + column, mask=column < columns, other=float("-inf")).to(tl.float32)
        value = tl.where(column < columns, capped(value, softcap, with_cap), float("-inf"))
        new_largest = tl.maximum(largest, tl.max(value, 0))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf is no number
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(value - shift), 0)
        sum_of_all += tl.sum(tl.where(column < columns, value, 0.0), 0)
        largest = new_largest
    logarithm = largest + tl.log(total)
    result = logarithm - (1.0 - smoothing) * at_label
    if smoothing > 0.0:
        result -= smoothing / columns * sum_of_all
    tl.store(loss + row, tl.where(ignored, 0.0, result))
    if with_gradients:
        logarithm += at_label * 0.0  # NaN if the target is no class
        for start in range(0, columns, block):
            column = start + tl.arange(0, block)
            value = tl.load(logits + column, mask=column < columns, other=0.0).to(tl.float32)
            value = capped(value, softcap, with_cap)
            gradient = tl.exp(value - logarithm) - smoothing / columns
            gradient = tl.where(column == label, gradient - (1.0 - smoothing), gradient)
            if with_cap:
                share = value / softcap
                gradient *= 1.0 - share * share
            gradient = tl.where(ignored, 0.0, gradient)
            tl.store(logits + column, gradient.to(logits.dtype.element_ty), mask=column < columns)


def by_kernel(logits: torch.Tensor, target: torch.Tensor, how: Loss, gradients: bool) -> torch.Tensor:
    """The loss of each row; contiguous `logits` are overwritten by their gradients where these are wanted."""
    loss = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    launch(
        rows_kernel, len(logits), logits, logits, target, loss, logits.shape[1], how.ignore_index, how.smoothing,
        how.softcap, with_cap=how.softcap > 0, with_gradients=gradients, block=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return loss
