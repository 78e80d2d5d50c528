"""What do pooling and resampling cost, forward and backward?

Arithmetic: one operation per element of every window; a weighted sum of p neighbours 2·p - 1 (linear 2 neighbours,
bilinear 4, trilinear 8, bicubic 16). Traffic: input read once, output (and the int64 positions of maxima)
written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.dtypes import INT64
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Sizes, Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, attempted, work


def _pool(rank: int, dilation: int | None, ceil: int, indices: bool) -> Model:
    """A pool with (self, kernel, stride, padding, …); its windows need not be known for the traffic."""

    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        sizes = call.output() if call.hints.output is not None else _pooled(call, x, rank, dilation, ceil)
        out = dense(sizes, x.element)
        flops, reason = attempted(lambda: out.elements * _window(call, 1, rank))
        positions = dense(sizes, INT64) if indices else None
        assumes = call.hints.source if call.hints.output is not None else None
        return work("reduction", x.element.name, flops, (x,), (out, positions), reason=reason, assumes=assumes)

    return cost


def _window(call: Call, at: int, rank: int) -> int:
    return math.prod(_each(call, at, "kernel_size", rank))


def _each(call: Call, at: int, what: str, rank: int) -> tuple[int, ...]:
    values = call.integers(at, what)
    values = values * rank if len(values) == 1 else values
    if len(values) != rank or min(values) < 0:
        raise UndeterminedError(f"scalar `{what}` has the wrong length")
    return values


def _pooled(call: Call, x: Tensor, rank: int, dilation: int | None, ceil: int) -> Sizes:
    """Sizes of the pooled tensor (torch.nn.MaxPool2d's formula); no stride means that of the window."""
    kernel = _each(call, 1, "kernel_size", rank)
    stride = call.integers(2, "stride") if call.scalar(2, "stride") != [] else kernel
    stride = stride * rank if len(stride) == 1 else stride
    padding = _each(call, 3, "padding", rank)
    spread = _each(call, dilation, "dilation", rank) if dilation is not None else (1,) * rank
    up = call.flag(ceil, "ceil_mode")
    if len(x.sizes) < rank + 1 or len(stride) != rank or min(stride) < 1:
        raise UndeterminedError("not the sizes of a pool")
    sizes = []
    for n, k, s, p, d in zip(x.sizes[-rank:], kernel, stride, padding, spread, strict=True):
        room = n + 2 * p - d * (k - 1) - 1 + (s - 1 if up else 0)
        count = room // s + 1
        sizes.append(max(count - (up and (count - 1) * s >= n + p), 0))  # the last window must start inside
    return (*x.sizes[:-rank], *sizes)


def _pool_backward(call: Call) -> Cost:
    """A gradient of the size of argument 1: at least one addition per element of argument 0."""
    grad, x = call.tensor(0), call.tensor(1)
    indices = next((t for t in call.tensors(2) if t.element == INT64), None)
    return work("reduction", x.element.name, grad.elements, (grad, indices), (dense(x.sizes, x.element),))


def _average_backward(rank: int) -> Model:
    def cost(call: Call) -> Cost:
        grad, x = call.tensor(0), call.tensor(1)
        flops, reason = attempted(lambda: grad.elements * _window(call, 2, rank))
        return work("reduction", x.element.name, flops, (grad,), (dense(x.sizes, x.element),), reason=reason)

    return cost


def _adaptive(indices: bool) -> Model:
    """adaptive pools (self, output_size): every element of the input is used once, or nearly."""

    def cost(call: Call) -> Cost:
        x, size = call.tensor(0), call.integers(1, "output_size")
        out = dense(x.sizes[: len(x.sizes) - len(size)] + size, x.element)
        positions = dense(out.sizes, INT64) if indices else None
        return work("reduction", x.element.name, x.elements, (x,), (out, positions))

    return cost


def _resample(per_element: int) -> Model:
    """upsample_*(self, output_size, …)."""

    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        out = dense(_resampled(call, x), x.element)
        return work("pointwise", x.element.name, per_element * out.elements, (x,), (out,))

    return cost


def _resampled(call: Call, x: Tensor) -> Sizes:
    """Sizes after resampling, from the argument output_size or the scale factors, which come last."""
    size = call.scalar(1, "output_size")
    if isinstance(size, list):
        return (*x.sizes[:2], *call.integers(1, "output_size"))
    factors = call.scalar(len(call) - 1, "scale_factors")
    if not isinstance(factors, list) or len(factors) != len(x.sizes) - 2:
        raise UndeterminedError("scalar `output_size` not recorded")
    if not all(isinstance(f, int | float) and 0 <= f < 2**31 for f in factors):
        raise UndeterminedError("scalar `scale_factors` not recorded")
    return (*x.sizes[:2], *(int(n * f) for n, f in zip(x.sizes[2:], factors, strict=True)))


def _resample_backward(per_element: int) -> Model:
    """upsample_*_backward(grad, output_size, input_size, …)."""

    def cost(call: Call) -> Cost:
        grad = call.tensor(0)
        out = dense(call.integers(2, "input_size"), grad.element)
        return work("pointwise", grad.element.name, max(per_element, 1) * grad.elements, (grad,), (out,))

    return cost


_POOLS: dict[str, Callable[[Call], Cost]] = {
    "max_pool2d_with_indices": _pool(2, 4, 5, True), "max_pool3d_with_indices": _pool(3, 4, 5, True),
    "max_pool1d": _pool(1, 4, 5, False), "max_pool2d": _pool(2, 4, 5, False), "max_pool3d": _pool(3, 4, 5, False),
    "mkldnn_max_pool2d": _pool(2, 4, 5, False), "avg_pool1d": _pool(1, None, 4, False),
    "avg_pool2d": _pool(2, None, 4, False), "avg_pool3d": _pool(3, None, 4, False),
    "max_pool2d_with_indices_backward": _pool_backward, "max_pool3d_with_indices_backward": _pool_backward,
    "avg_pool2d_backward": _average_backward(2), "avg_pool3d_backward": _average_backward(3),
    "_adaptive_avg_pool2d": _adaptive(False), "_adaptive_avg_pool3d": _adaptive(False),
    "adaptive_avg_pool2d": _adaptive(False), "adaptive_avg_pool3d": _adaptive(False),
    "adaptive_max_pool2d": _adaptive(True), "adaptive_max_pool3d": _adaptive(True),
    "_adaptive_avg_pool2d_backward": _pool_backward, "_adaptive_avg_pool3d_backward": _pool_backward,
    "adaptive_max_pool2d_backward": _pool_backward, "adaptive_max_pool3d_backward": _pool_backward,
}  # fmt: skip

_PER_ELEMENT = {"nearest1d": 0, "nearest2d": 0, "nearest3d": 0, "_nearest_exact2d": 0, "linear1d": 3, "bilinear2d": 7,
                "trilinear3d": 15, "bicubic2d": 31}  # fmt: skip

MODELS: dict[str, Model] = {
    **{f"aten::{name}": model for name, model in _POOLS.items()},
    **{f"aten::upsample_{name}": _resample(flops) for name, flops in _PER_ELEMENT.items()},
    **{f"aten::upsample_{name}_backward": _resample_backward(flops) for name, flops in _PER_ELEMENT.items()},
}
