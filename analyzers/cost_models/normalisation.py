"""What do normalisations and softmax cost, forward and backward?

Arithmetic per element, by the textbook formula: mean 1, deviation 1, its square and sum 2, times 1/σ 1; a weight and
a bias 1 each. With given statistics: deviation and scale only. Traffic: the input read once and the output written
once, with the parameters and statistics; kernels that read a row twice because it does not fit on chip do more.
"""

from __future__ import annotations

from dataclasses import dataclass

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.dtypes import FLOAT32, ElementType
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, Part, work

_CENTRED, _SCALED, _GIVEN = 5, 3, 2  # layer and batch norm · RMS norm · batch norm with given statistics
_CENTRED_BACK, _SCALED_BACK, _GIVEN_BACK = 9, 6, 1


@dataclass(frozen=True)
class Forward:
    """Where a normalisation keeps its arguments."""

    weight: int
    bias: int | None
    per_element: int = _CENTRED
    training: int | None = None  # flag whether statistics are computed
    statistics: int = 2  # results per group, of float32 at least


def _forward(at: Forward) -> Model:
    def cost(call: Call) -> Cost:
        x, weight = call.tensor(0), call.maybe(at.weight)
        bias = call.maybe(at.bias) if at.bias is not None else None
        training = at.training is None or call.number(at.training, 1) != 0
        each = (at.per_element if training else _GIVEN) + (weight is not None) + (bias is not None)
        groups = _groups(call, x, weight) if training else 0
        saved = dense((groups, at.statistics), _at_least_float(x.element))
        others = call.tensors(1)
        return work(
            "normalisation", x.element.name, each * x.elements, (x, *others), (dense(x.sizes, x.element), saved)
        )

    return cost


def _at_least_float(element: ElementType) -> ElementType:
    return element if element.itemsize > 4 else FLOAT32


def _groups(call: Call, x: Tensor, weight: Tensor | None) -> int:
    """How many means there are: rows of a layer norm, channels of a batch norm, groups of a group norm."""
    if "batch_norm" in call.name:
        return x.sizes[1] if len(x.sizes) > 1 else 1
    if "group_norm" in call.name or "instance_norm" in call.name:
        at = {"aten::native_group_norm": 6, "aten::group_norm": 1}.get(call.name)
        each = int(call.number(at, 0)) if at is not None else 0
        return max(each, 0) * x.sizes[0] if x.sizes else 0
    inner = weight.elements if weight is not None else _normalised(call)
    return x.elements // inner if inner > 0 else 0


def _normalised(call: Call) -> int:
    """Elements of a row, from the argument normalized_shape; 0 where it is not recorded."""
    try:
        shape = call.integers(1, "normalized_shape")
    except UndeterminedError:
        return 0
    product = 1
    for size in shape:
        product *= size
    return product


@dataclass(frozen=True)
class Backward:
    """Where the gradient of a normalisation keeps its arguments; the other large tensor is the input."""

    weight: int
    mask: int | None = None
    per_element: int = _CENTRED_BACK
    training: int | None = None
    has_bias: bool = True


def _backward(at: Backward) -> Model:
    def cost(call: Call) -> Cost:
        first, second, weight = call.tensor(0), call.tensor(1), call.maybe(at.weight)
        wanted = _mask(call, at, weight is not None)
        training = at.training is None or call.number(at.training, 1) != 0
        each = (at.per_element if training else _GIVEN_BACK) + (weight is not None) + 2 * wanted[1] + wanted[2]
        small: list[Part] = list(call.tensors(2))
        gradient = dense((weight.elements,), weight.element) if weight is not None else None
        writes: list[Part] = [gradient] * (wanted[1] + wanted[2])
        if wanted[0]:
            writes.append(dense(second.sizes, second.element))
        flops = each * second.elements
        return work("normalisation", second.element.name, flops, (first, second, *small), writes)

    return cost


def _mask(call: Call, at: Backward, weighted: bool) -> tuple[bool, bool, bool]:
    """Which gradients are computed: of the input, the weight, the bias."""
    mask = [True, weighted, weighted and at.has_bias]
    if at.mask is not None and call.signature.scalars:
        asked = [bool(m) for m in call.integers(at.mask, "output_mask")] + [False] * 3
        mask = [m and a for m, a in zip(mask, asked, strict=False)]
    return mask[0], mask[1], mask[2]


def _rows(per_element: int, widen: int | None = None) -> Model:
    """softmax: maximum, difference, exponential, sum, quotient; the result may be asked for in float32."""

    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        wider = widen is not None and call.number(widen, 0) != 0
        out = dense(x.sizes, FLOAT32 if wider else x.element)
        reads = [x, call.maybe(1)] if call.name.startswith("aten::_masked") else [x]
        return work("normalisation", x.element.name, per_element * x.elements, reads, (out,))

    return cost


def _rows_backward(call: Call) -> Cost:
    """softmax: product, sum, difference, product; log-softmax: exponential, sum, product, difference."""
    grad, out = call.tensor(0), call.tensor(1)
    return work("normalisation", out.element.name, 4 * out.elements, (grad, out), (dense(out.sizes, out.element),))


def _statistics(call: Call) -> Cost:
    """batch_norm_stats: mean and 1/σ per channel."""
    x = call.tensor(0)
    saved = dense((2, *x.sizes[1:2]), _at_least_float(x.element))
    return work("normalisation", x.element.name, 4 * x.elements, (x,), (saved,))


def _reduce(call: Call) -> Cost:
    """batch_norm_backward_reduce: sum(dy) and sum(dy·(x − μ)) per channel, and with them dγ and dβ."""
    x = call.tensor(1)
    sums = dense((4, *x.sizes[1:2]), _at_least_float(x.element))
    return work("normalisation", x.element.name, 4 * x.elements, call.tensors(), (sums,))


_FORWARD: dict[str, Forward] = {
    "native_layer_norm": Forward(2, 3), "layer_norm": Forward(2, 3),
    "native_batch_norm": Forward(1, 2, training=5), "batch_norm": Forward(1, 2, training=5),
    "_batch_norm_impl_index": Forward(1, 2, training=5), "cudnn_batch_norm": Forward(1, 2, training=5),
    "miopen_batch_norm": Forward(1, 2, training=5), "_native_batch_norm_legit": Forward(1, 2, training=5),
    "_batch_norm_with_update": Forward(1, 2), "_batch_norm_with_update_functional": Forward(1, 2),
    "_batch_norm_no_update": Forward(1, 2, per_element=_GIVEN),
    "batch_norm_elemt": Forward(1, 2, per_element=_GIVEN, statistics=0),
    "native_group_norm": Forward(1, 2), "group_norm": Forward(2, 3),
    "instance_norm": Forward(1, 2, training=5),
    "_fused_rms_norm": Forward(2, None, per_element=_SCALED, statistics=1),
    "rms_norm": Forward(2, None, per_element=_SCALED, statistics=1),
}  # fmt: skip

_BACKWARD: dict[str, Backward] = {
    "native_layer_norm_backward": Backward(5, mask=7),
    "native_batch_norm_backward": Backward(2, mask=9, training=7),
    "batch_norm_backward": Backward(2, mask=9, training=7),
    "cudnn_batch_norm_backward": Backward(2), "miopen_batch_norm_backward": Backward(2),
    "native_group_norm_backward": Backward(4, mask=9),
    "_fused_rms_norm_backward": Backward(4, mask=5, per_element=_SCALED_BACK, has_bias=False),
    "batch_norm_backward_elemt": Backward(99, per_element=5),
}  # fmt: skip

_SOFTMAX: dict[str, Model] = {
    "_softmax": _rows(5, widen=2), "_log_softmax": _rows(5, widen=2), "_masked_softmax": _rows(5),
    "softmax": _rows(5), "log_softmax": _rows(5), "_safe_softmax": _rows(5),
    "_softmax_backward_data": _rows_backward, "_log_softmax_backward_data": _rows_backward,
    "_masked_softmax_backward": _rows_backward,
    "batch_norm_stats": _statistics, "batch_norm_backward_reduce": _reduce,
}  # fmt: skip

MODELS: dict[str, Model] = {
    **{f"aten::{name}": _forward(at) for name, at in _FORWARD.items()},
    **{f"aten::{name}": _backward(at) for name, at in _BACKWARD.items()},
    **{f"aten::{name}": model for name, model in _SOFTMAX.items()},
}
