"""What does an elementwise operator cost, also in place, backward, and over lists of tensors?

Arithmetic per element of the result: the operations of the textbook formula; each addition, product, quotient,
comparison or choice counts one, a transcendental function or a root one as well, a change of type or sign bit none.
Traffic: every operand read once, broadcast operands by their distinct elements, and the result written once; in place
the first operand is read and written.
"""

from __future__ import annotations

from dataclasses import dataclass

from probe.analyzers.cost_models.call import Call, is_nested
from probe.analyzers.cost_models.dtypes import BOOL, ELEMENT_TYPES, ElementType
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError, broadcast, dense, result_type
from probe.analyzers.cost_models.terms import Cost, Part, work


@dataclass(frozen=True)
class Formula:
    """An elementwise function of its first `operands` arguments."""

    operands: int
    flops: int
    truth: bool = False  # the result is of type bool


def _table(operands: int, truth: bool = False, **names_by_flops: str) -> dict[str, Formula]:
    return {
        name: Formula(operands, int(flops.removeprefix("n")), truth)
        for flops, names in names_by_flops.items()
        for name in names.split()
    }


FORMULAS: dict[str, Formula] = {
    **_table(
        1,
        n0="positive imag real conj_physical bitwise_not view_as_real_copy",
        n1="abs absolute neg negative sqrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan "
        "sinh cosh asinh acosh atanh tanh erf erfc erfinv sign sgn floor ceil round trunc relu lgamma digamma square "
        "deg2rad rad2deg angle nan_to_num i0 special_i0 special_i1 special_erfcx special_ndtri threshold",
        n2="rsqrt relu6 clamp hardtanh leaky_relu frac clip sinc special_entr",
        n3="softplus logit hardshrink softshrink special_log_ndtr",
        n4="sigmoid elu hardsigmoid celu selu polygamma",
        n5="silu gelu hardswish log_sigmoid log_sigmoid_forward",
        n8="mish",
    ),
    **_table(1, truth=True, n1="logical_not isnan isinf isfinite isneginf isposinf signbit"),
    **_table(
        2,
        n1="add sub subtract rsub mul multiply div divide true_divide pow fmod remainder floor_divide atan2 maximum "
        "minimum fmax fmin clamp_min clamp_max bitwise_and bitwise_or bitwise_xor bitwise_left_shift masked_fill "
        "bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ float_power copysign ldexp hypot nextafter "
        "threshold_backward gcd lcm",
        n2="prelu heaviside xlogy xlog1py leaky_relu_backward hardtanh_backward native_dropout_backward "
        "_masked_scale relu6_backward logaddexp2 hardshrink_backward softshrink_backward",
        n3="sigmoid_backward tanh_backward hardsigmoid_backward logaddexp logit_backward _prelu_kernel_backward",
        n4="softplus_backward elu_backward hardswish_backward",
        n5="log_sigmoid_backward",
        n9="silu_backward",
        n11="gelu_backward",
        n12="mish_backward",
    ),
    **_table(
        2,
        truth=True,
        n1="eq ne gt ge lt le greater greater_equal less less_equal not_equal logical_and logical_or logical_xor",
        n3="isclose",
    ),
    **_table(3, n1="where _s_where", n2="clamp_tensor", n3="addcmul addcdiv lerp"),
}


def model(formula: Formula) -> Model:
    """The model of an elementwise operator; arguments after its operands are numbers or the given result."""

    def cost(call: Call) -> Cost:
        operands = call.tensors(0, formula.operands)
        element = result_type(operands)
        if call.name.endswith("_") and not call.name.endswith("__"):
            target = call.tensor(0)
            flops = formula.flops * target.elements
            return work("pointwise", target.element.name, flops, operands[1:], (), (target,))
        given = next(iter(call.tensors(formula.operands)), None)
        out = _result(call, formula, operands, element, given)
        return work("pointwise", element.name, formula.flops * out.elements, operands, (out,))

    return cost


def _result(call: Call, formula: Formula, operands: list[Tensor], element: ElementType, given: Tensor | None) -> Tensor:
    """The result: broadcast operands; of the given result's type and strides where these fit."""
    sizes = broadcast(t.sizes for t in operands)
    if given is not None and given.sizes == sizes:
        return given
    kind = BOOL if formula.truth else given.element if given is not None else _written(call, operands, element)
    return dense(sizes, kind)


def _written(call: Call, operands: list[Tensor], element: ElementType) -> ElementType:
    """Type of a new result; where() promotes only its two choices."""
    if call.name in ("aten::where", "aten::_s_where") and len(operands) > 1:
        return result_type(operands[1:])
    return element


def of_lists(formula: Formula) -> Model:
    """The model of a _foreach_ operator: the elementwise operator on every tensor of the lists."""

    def cost(call: Call) -> Cost:
        count = call.elements_in_list(0)
        flops = formula.flops * count
        lists = [i for i in range(min(len(call), formula.operands)) if is_nested(call.signature.dims[i])]
        try:
            return _list_cost(call, flops, [float(sum(t.bytes for t in call.tensor_list(i))) for i in lists])
        except UndeterminedError as undetermined:
            return Cost(float(flops), None, "pointwise", None, undetermined.reason)

    return cost


def _list_cost(call: Call, flops: float, sizes: list[float]) -> Cost:
    element = ELEMENT_TYPES.get(call.hints.element or "")
    dtype = element.name if element else None
    reads: list[Part] = list(sizes)
    if call.name.endswith("_"):
        return work("pointwise", dtype, flops, reads[1:], (), (sizes[0],), assumes=call.hints.source)
    return work("pointwise", dtype, flops, reads, (sizes[0],), assumes=call.hints.source)


def _list_copy(call: Call) -> Cost:
    """_foreach_copy_(targets, sources)."""
    targets, sources = call.tensor_list(0), call.tensor_list(1)
    return work("copy", None, 0, sources, targets, assumes=call.hints.source)


def _list_zero(call: Call) -> Cost:
    return work("copy", None, 0, (), call.tensor_list(0), assumes=call.hints.source)


def _list_norm(call: Call) -> Cost:
    """_foreach_norm: a square and an addition per element, one result per tensor."""
    flops = 2 * call.elements_in_list(0)
    tensors = call.tensor_list(0)
    out = dense((len(tensors),), tensors[0].element) if tensors else None
    dtype = out.element.name if out else None
    return work("reduction", dtype, flops, tensors, (out,), assumes=call.hints.source)


def _unscale(call: Call) -> Cost:
    """_amp_foreach_non_finite_check_and_unscale_: test and scale every gradient in place."""
    tensors = call.tensor_list(0)
    flops = 2 * sum(t.elements for t in tensors)
    dtype = tensors[0].element.name if tensors else None
    return work("pointwise", dtype, flops, (), (), tensors, assumes=call.hints.source)


def _glu(call: Call) -> Cost:
    """glu: one half times the sigmoid of the other."""
    x = call.tensor(0)
    out = dense((x.elements // 2,), x.element)
    return work("pointwise", x.element.name, 5 * out.elements, (x,), (out,))


def _glu_backward(call: Call) -> Cost:
    grad, x = call.tensor(0), call.tensor(1)
    return work("pointwise", x.element.name, 9 * grad.elements, (grad, x), (dense(x.sizes, x.element),))


def _in_place_and_not(prefix: str, models: dict[str, Model]) -> dict[str, Model]:
    return {f"aten::{prefix}{name}{tail}": m for name, m in models.items() for tail in ("", "_")}


MODELS: dict[str, Model] = {
    **_in_place_and_not("", {name: model(formula) for name, formula in FORMULAS.items()}),
    **_in_place_and_not("_foreach_", {name: of_lists(formula) for name, formula in FORMULAS.items()}),
    "aten::_foreach_copy_": _list_copy,
    "aten::_foreach_zero_": _list_zero,
    "aten::_foreach_norm": _list_norm,
    "aten::_amp_foreach_non_finite_check_and_unscale_": _unscale,
    "aten::glu": _glu,
    "aten::glu_backward": _glu_backward,
    **{f"aten::{name}": model(Formula(2, 1)) for name in ("__iand__", "__ior__", "__ixor__")},
}
