"""What does a convolution cost, forward and backward, on any backend?

Arithmetic: two operations for every pair of an output element and a weight that it uses, padding included, as
torch.utils.flop_counter counts; each gradient (of the input, of the weight) takes as many again. Traffic: input,
weight and bias read once and the output written once; the gradients read the output's gradient and the weight or the
input, each on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from probe.analyzers.cost_models.call import Call, make_tensor
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Sizes, Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, work


@dataclass(frozen=True)
class Layout:
    """Where a forward operator's schema keeps its arguments; None for those it does not have."""

    stride: int | None
    padding: int | None
    dilation: int | None = None
    bias: int | None = None
    transposed: int | bool = False
    output_padding: int | None = None
    addend: int | None = None
    weight: int = 1


def _forward(layout: Layout, old: Layout | None = None) -> Model:
    """The model of a forward operator; `old` is its schema in torch before 1.8, where argument 2 is the bias."""

    def cost(call: Call) -> Cost:
        chosen = old if old is not None and _has_bias(call) else layout
        x, w = call.tensor(0), call.tensor(chosen.weight)
        transposed = _transposed(call, chosen)
        out = dense(_output(call, chosen, x, w, transposed), x.element)
        flops = _flops(x if transposed else out, w)
        extras = [call.maybe(i) for i in (chosen.bias, chosen.addend) if i is not None]
        hint = call.hints.source if call.hints.output is not None else None
        return work("convolution", x.element.name, flops, (x, w, *extras), (out,), assumes=hint)

    return cost


def _has_bias(call: Call) -> bool:
    return call.is_tensor(2) or (call.dtype(2) == "" and len(call) > 8)


def _flops(grid: Tensor, w: Tensor) -> float:
    """`grid` has a batch, channels and one entry per position of the window: output, or input if transposed."""
    if len(w.sizes) < 3 or len(grid.sizes) < len(w.sizes) - 1:
        raise UndeterminedError("not the sizes of a convolution")
    return 2.0 * grid.elements * math.prod(w.sizes[1:])


def _transposed(call: Call, layout: Layout) -> bool:
    at = layout.transposed
    if isinstance(at, bool):
        return at
    if not call.signature.scalars and call.hints.output is not None:  # a weight's first size: channels out, or in
        return call.output()[1:2] != call.tensor(layout.weight).sizes[:1]
    return call.flag(at, "transposed")


def _output(call: Call, layout: Layout, x: Tensor, w: Tensor, transposed: bool) -> Sizes:
    """Sizes of the output, from the scalars or as other calls show them."""
    if call.hints.output is not None:
        return call.output()
    rank = len(w.sizes) - 2
    if rank < 1 or len(x.sizes) not in (rank + 1, rank + 2):
        raise UndeterminedError("not the sizes of a convolution")
    stride = _each(call, layout.stride, "stride", rank, 1)
    dilation = _each(call, layout.dilation, "dilation", rank, 1)
    window = [d * (k - 1) for d, k in zip(dilation, w.sizes[2:], strict=True)]
    if min(stride) < 1:
        raise UndeterminedError("stride below 1")
    before = x.sizes[-rank:]
    if transposed:
        extra = _each(call, layout.output_padding, "output_padding", rank, 0)
        padding = _padding(call, layout, window)
        after = [
            (n - 1) * s - p + reach + e + 1
            for n, s, p, reach, e in zip(before, stride, padding, window, extra, strict=True)
        ]
        groups = _groups_transposed(call, layout)
        return (*x.sizes[: -rank - 1], w.sizes[1] * groups, *(max(n, 0) for n in after))
    padding = _padding(call, layout, window)
    spatial = zip(before, stride, padding, window, strict=True)
    return (*x.sizes[: -rank - 1], w.sizes[0], *(max((n + p - reach - 1) // s + 1, 0) for n, s, p, reach in spatial))


def _groups_transposed(call: Call, layout: Layout) -> int:
    """Groups of a transposed convolution: an argument, after the output padding or the dilation; 1 where absent."""
    at = {"aten::convolution": 8, "aten::_convolution": 8, "aten::cudnn_convolution_transpose": 6,
          "aten::miopen_convolution_transpose": 7}.get(call.name)  # fmt: skip
    if at is None:
        at = 6 if call.name.startswith("aten::conv_transpose") else None
    return 1 if at is None else call.integer(at, "groups")


def _each(call: Call, i: int | None, what: str, rank: int, default: int) -> list[int]:
    """Argument `i`, one number per spatial dimension; a single one holds for all."""
    if i is None:
        return [default] * rank
    values = list(call.integers(i, what))
    if len(values) == 1:
        return values * rank
    if len(values) != rank:
        raise UndeterminedError(f"scalar `{what}` has the wrong length")
    return values


def _padding(call: Call, layout: Layout, window: list[int]) -> list[int]:
    """Padding at both ends together, per spatial dimension."""
    text = call.scalar(layout.padding, "padding") if layout.padding is not None else 0
    if text == "same":
        return window
    if text == "valid":
        return [0] * len(window)
    return [2 * p for p in _each(call, layout.padding, "padding", len(window), 0)]


@dataclass(frozen=True)
class Backward:
    """Where a backward operator's schema keeps its tensors, and the mask of the gradients it computes."""

    grad: int
    x: int
    w: int
    mask: int | None
    transposed: int | None = None


def _backward(at: Backward) -> Model:
    def cost(call: Call) -> Cost:
        dy, x, w = call.tensor(at.grad), call.tensor(at.x), call.tensor(at.w)
        wanted = _mask(call, at)
        transposed = call.flag(at.transposed, "transposed") if at.transposed is not None and _scalars(call) else False
        each = _flops(x if transposed else dy, w)
        reads = [dy] * (wanted[0] + wanted[1]) + [w] * wanted[0] + [x] * wanted[1]
        bias = dense(dy.sizes[1:2], dy.element) if wanted[2] else None
        writes = [dense(x.sizes, x.element)] * wanted[0] + [dense(w.sizes, w.element)] * wanted[1]
        flops = each * (wanted[0] + wanted[1]) + (dy.elements if wanted[2] else 0)
        assumed = None if _scalars(call) or at.mask is None else "gradients of input and weight are both computed"
        return work("convolution", x.element.name, flops, reads, (*writes, bias), assumes=assumed)

    return cost


def _scalars(call: Call) -> bool:
    return bool(call.signature.scalars)


def _mask(call: Call, at: Backward) -> tuple[bool, bool, bool]:
    """Which gradients are computed: of the input, the weight, the bias."""
    if at.mask is None or not _scalars(call):
        return True, True, False
    mask = [bool(m) for m in call.integers(at.mask, "output_mask")] + [False] * 3
    return mask[0], mask[1], mask[2]


def _input_gradient(call: Call) -> Cost:
    """cudnn_convolution_backward_input(sizes of x, dy, w); the sizes come from the call above it."""
    dy, w = call.tensor(1), call.tensor(2)
    dx = _of_partner(call, 0)
    return work("convolution", dy.element.name, _flops(dy, w), (dy, w), (dx,), assumes=call.hints.source)


def _weight_gradient(call: Call) -> Cost:
    """cudnn_convolution_backward_weight(sizes of w, dy, x)."""
    dy, x = call.tensor(1), call.tensor(2)
    dw = _of_partner(call, 2)
    return work("convolution", dy.element.name, _flops(dy, dw), (dy, x), (dw,), assumes=call.hints.source)


def _of_partner(call: Call, tensor: int) -> Tensor:
    """A gradient is as large as what it is the gradient of: argument 0 if recorded, else of the call above."""
    if call.signature.scalars and call.dtype(0) != "":
        return dense(call.integers(0, "sizes"), call.tensor(1).element)
    above = call.hints.partner
    if above is None or tensor >= len(above.dims) or tensor >= len(above.dtypes):
        raise UndeterminedError("sizes of the gradient not recorded")
    return make_tensor(above.dims[tensor], above.dtypes[tensor])


_CUDNN = Layout(padding=2, stride=3, dilation=4)
_WITH_BIAS = Layout(bias=2, padding=3, stride=4, dilation=5)
_GENERAL = Layout(bias=2, stride=3, padding=4, dilation=5, transposed=6, output_padding=7)
_PLAIN = Layout(bias=2, stride=3, padding=4, dilation=5)
_FUSED_ADD = Layout(addend=2, bias=4, stride=5, padding=6, dilation=7)
_TRANSPOSED = Layout(bias=2, stride=3, padding=4, output_padding=5, dilation=7, transposed=True)
_THNN = Layout(bias=3, stride=4, padding=5)
_THNN_DILATED = Layout(bias=3, stride=4, padding=5, dilation=6)
_THNN_TRANSPOSED = Layout(bias=3, stride=4, padding=5, output_padding=6, dilation=7, transposed=True)
_CUDNN_TRANSPOSED = Layout(padding=2, output_padding=3, stride=4, dilation=5, transposed=True)
_MIOPEN_TRANSPOSED = Layout(bias=2, padding=3, output_padding=4, stride=5, dilation=6, transposed=True)

_FORWARD: dict[str, Layout] = {
    "convolution": _GENERAL, "_convolution": _GENERAL, "convolution_overrideable": _GENERAL,
    "conv1d": _PLAIN, "conv2d": _PLAIN, "conv3d": _PLAIN,
    "conv_transpose1d": _TRANSPOSED, "conv_transpose2d": _TRANSPOSED, "conv_transpose3d": _TRANSPOSED,
    "cudnn_convolution_relu": _PLAIN, "cudnn_convolution_add_relu": _FUSED_ADD,
    "cudnn_convolution_transpose": _CUDNN_TRANSPOSED, "miopen_convolution_transpose": _MIOPEN_TRANSPOSED,
    "miopen_convolution": _WITH_BIAS, "miopen_depthwise_convolution": _WITH_BIAS, "mkldnn_convolution": _WITH_BIAS,
    "miopen_convolution_relu": _PLAIN, "miopen_convolution_add_relu": _FUSED_ADD,
    "thnn_conv2d": _THNN, "_slow_conv2d_forward": _THNN, "slow_conv3d": _THNN, "slow_conv3d_forward": _THNN,
    "thnn_conv2d_forward": _THNN, "_conv_depthwise2d": _THNN_DILATED, "conv_depthwise3d": _THNN_DILATED,
    "thnn_conv_depthwise2d": _THNN_DILATED, "thnn_conv_depthwise2d_forward": _THNN_DILATED,
    "slow_conv_dilated2d": _THNN_DILATED, "slow_conv_dilated3d": _THNN_DILATED,
    "slow_conv_transpose2d": _THNN_TRANSPOSED, "slow_conv_transpose3d": _THNN_TRANSPOSED,
}  # fmt: skip

_MODERN = Backward(grad=0, x=1, w=2, mask=10, transposed=7)
_BACKWARD: dict[str, Backward] = {
    "convolution_backward": _MODERN,
    "convolution_backward_overrideable": Backward(grad=0, x=1, w=2, mask=9, transposed=6),
    "cudnn_convolution_backward": Backward(grad=1, x=0, w=2, mask=None),
    "miopen_convolution_backward": Backward(grad=1, x=0, w=2, mask=None),
    "mkldnn_convolution_backward": Backward(grad=1, x=0, w=2, mask=None),
    "_slow_conv2d_backward": Backward(grad=0, x=1, w=2, mask=None),
    "thnn_conv2d_backward": Backward(grad=0, x=1, w=2, mask=None),
    "thnn_conv_depthwise2d_backward": Backward(grad=0, x=1, w=2, mask=None),
}

MODELS: dict[str, Model] = {
    **{f"aten::{name}": _forward(layout) for name, layout in _FORWARD.items()},
    **{f"aten::{name}": _backward(at) for name, at in _BACKWARD.items()},
    "aten::cudnn_convolution": _forward(_CUDNN, old=_WITH_BIAS),
    "mkldnn::_convolution_pointwise": _forward(_WITH_BIAS),
    **{f"aten::{library}_convolution_backward_input": _input_gradient for library in ("cudnn", "miopen")},
    **{f"aten::{library}_convolution_backward_weight": _weight_gradient for library in ("cudnn", "miopen")},
}
