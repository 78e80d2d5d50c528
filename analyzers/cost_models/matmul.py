"""What does a product of matrices or vectors cost?

Arithmetic: 2·M·N·K, one multiplication and one addition per term, as torch.utils.flop_counter counts them; four times
that for complex numbers. A bias or a scale in the epilogue counts as traffic, not as arithmetic. Traffic: both
operands and what is added, each read once, and the result, written once.
"""

from __future__ import annotations

from collections.abc import Callable

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.dtypes import INT32, ElementType
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Sizes, Tensor, UndeterminedError, broadcast, dense
from probe.analyzers.cost_models.terms import Cost, Part, work


def product(a: Tensor, b: Tensor) -> tuple[float, Sizes]:
    """Arithmetic and result sizes of torch.matmul(a, b)."""
    if not a.sizes or not b.sizes:
        raise UndeterminedError("a factor has no dimensions")
    inner = a.sizes[-1]
    if inner != (b.sizes[-2] if len(b.sizes) > 1 else b.sizes[0]):
        raise UndeterminedError("inner sizes disagree")
    sizes = broadcast((a.sizes[:-2], b.sizes[:-2])) + a.sizes[-2:-1] + (b.sizes[-1:] if len(b.sizes) > 1 else ())
    return terms(dense(sizes, a.element).elements * inner, a.element), sizes


def terms(count: float, element: ElementType) -> float:
    """Arithmetic of `count` multiply-adds."""
    return (8 if element.is_complex else 2) * count


def _two(first: int) -> Model:
    """A product of the arguments `first` and `first + 1`; one before them is added unless its factor beta is 0."""

    def cost(call: Call) -> Cost:
        a, b = call.tensor(first), call.tensor(first + 1)
        flops, sizes = product(a, b)
        out = dense(sizes, a.element)
        return _cost(call, a, flops, (a, b, *_added(call, first)), out)

    return cost


def _cost(call: Call, a: Tensor, flops: float, reads: tuple[Part, ...], out: Tensor) -> Cost:
    if call.name.endswith("_"):  # the result replaces argument 0, which is among the reads
        c = call.tensor(0)
        added = len(reads) > 2
        return work("matmul", a.element.name, flops, reads[:2], () if added else (c,), (c,) if added else ())
    return work("matmul", a.element.name, flops, reads, (out,))


def _added(call: Call, first: int) -> tuple[Part, ...]:
    """What is added to the product: argument 0, if it comes before the factors and beta is not 0."""
    return (call.maybe(0),) if first and call.number(first + 2, 1.0) != 0 else ()


def _addbmm(call: Call) -> Cost:
    a, b = call.tensor(1), call.tensor(2)
    flops, sizes = product(a, b)
    return _cost(call, a, flops, (a, b, *_added(call, 1)), dense(sizes[-2:], a.element))


def _dot(call: Call) -> Cost:
    a, b = call.tensor(0), call.tensor(1)
    return work("matmul", a.element.name, terms(a.elements, a.element), (a, b), (dense((), a.element),))


def _outer(call: Call) -> Cost:
    a, b = call.tensor(0), call.tensor(1)
    out = dense((a.elements, b.elements), a.element)
    return work("pointwise", a.element.name, out.elements, (a, b), (out,))


def _linear(call: Call) -> Cost:
    """x [..., K] times w [N, K] transposed, plus a bias [N]."""
    x, w = call.tensor(0), call.tensor(1)
    if not x.sizes or x.sizes[-1:] != w.sizes[-1:]:
        raise UndeterminedError("inner sizes disagree")
    out = dense(x.sizes[:-1] + w.sizes[:-1], x.element)
    flops = terms(out.elements * x.sizes[-1], x.element)
    return work("matmul", x.element.name, flops, (x, w, call.maybe(2)), (out,))


def _scaled(dtype_argument: int, last_read: int) -> Model:
    """_scaled_mm: 8-bit factors, their scales, perhaps a bias; the result's type is an argument."""

    def cost(call: Call) -> Cost:
        a, b = call.tensor(0), call.tensor(1)
        flops, sizes = product(a, b)
        out = dense(sizes, call.element(dtype_argument, a.element))
        return work("matmul", a.element.name, flops, call.tensors(0, last_read), (out,))

    return cost


def _int(call: Call) -> Cost:
    a, b = call.tensor(0), call.tensor(1)
    flops, sizes = product(a, b)
    return work("matmul", a.element.name, flops, (a, b), (dense(sizes, INT32),))


def _grouped(offsets: int, dtype_argument: int) -> Model:
    """_grouped_mm: one product per group; two-dimensional operands are cut into groups at `offs`."""

    def cost(call: Call) -> Cost:
        a, b, cuts = call.tensor(0), call.tensor(1), call.maybe(offsets)
        flops, sizes = _grouped_product(a, b, cuts)
        out = dense(sizes, call.element(dtype_argument, a.element) if call.signature.scalars else a.element)
        reads = [t for i, t in enumerate(call.tensors()) if i < 4 or t is cuts]
        rest = "the groups cover all rows" if cuts is not None else None
        return work("matmul", a.element.name, flops, reads, (out,), assumes=rest)

    return cost


def _grouped_product(a: Tensor, b: Tensor, cuts: Tensor | None) -> tuple[float, Sizes]:
    """Arithmetic and result sizes; the cut dimension is M for 2-D by 3-D, N for 3-D by 2-D and K for 2-D by 2-D."""
    ranks = (len(a.sizes), len(b.sizes))
    if ranks == (3, 3):
        return product(a, b)
    if ranks not in ((2, 3), (3, 2), (2, 2)) or a.sizes[-1] != b.sizes[-2]:
        raise UndeterminedError("inner sizes disagree")
    m, k, n = a.sizes[-2], a.sizes[-1], b.sizes[-1]
    if ranks != (2, 2):
        return terms(m * n * k, a.element), (m, n)
    if cuts is None:
        raise UndeterminedError("number of groups not recorded")
    return terms(m * n * k, a.element), (cuts.elements, m, n)


def _einsum(call: Call) -> Cost:
    raise UndeterminedError("the equation of einsum is not recorded; the products below it are counted")


def _rnn(call: Call) -> Cost:
    """_cudnn_rnn: at each of T·B positions every weight matrix is multiplied once."""
    x, states = call.tensor(0), call.tensor(4)
    weights = call.list_sizes(1)
    steps = x.elements // x.sizes[-1] if x.sizes and x.sizes[-1] else 0
    matrices = sum(s[0] * s[1] for s in weights if len(s) == 2)
    parameters = call.elements_in_list(1) * x.element.itemsize
    directions = 2 if call.flag(13, "bidirectional") else 1
    out = dense((steps, directions * states.sizes[-1]), x.element) if states.sizes else None
    reads: tuple[Part, ...] = (x, parameters, states, call.maybe(5))
    return work("matmul", x.element.name, terms(steps * matrices, x.element), reads, (out, states, call.maybe(5)))


def _rnn_layer(call: Call) -> Cost:
    """mkldnn_rnn_layer: one layer in one direction, weights [4·H, I] and [4·H, H]."""
    x, to_input, to_hidden = (call.tensor(i) for i in range(3))
    if len(x.sizes) != 3 or len(to_hidden.sizes) != 2:
        raise UndeterminedError("not the sizes of a recurrent layer")
    steps = x.sizes[0] * x.sizes[1]
    flops = terms(steps * (to_input.elements + to_hidden.elements), x.element)
    out = dense((steps, to_hidden.sizes[1]), x.element)
    states = call.tensors(5, 7)
    return work("matmul", x.element.name, flops, call.tensors(0, 7), (out, *states))


_PRODUCT: dict[str, Callable[[Call], Cost]] = {
    "mm": _two(0), "bmm": _two(0), "mv": _two(0), "matmul": _two(0),
    "addmm": _two(1), "baddbmm": _two(1), "addmv": _two(1), "_addmm_activation": _two(1), "addmm_": _two(1),
    "baddbmm_": _two(1), "addmv_": _two(1), "addbmm": _addbmm, "addbmm_": _addbmm,
    "dot": _dot, "vdot": _dot, "inner": _dot, "outer": _outer, "ger": _outer,
    "linear": _linear, "mkldnn_linear": _linear, "_mkl_linear": _linear,
    "_scaled_mm": _scaled(6, 6), "_int_mm": _int, "_grouped_mm": _grouped(2, 4), "_scaled_grouped_mm": _grouped(4, 7),
    "einsum": _einsum, "_cudnn_rnn": _rnn, "mkldnn_rnn_layer": _rnn_layer,
}  # fmt: skip

MODELS: dict[str, Model] = {
    **{f"aten::{name}": model for name, model in _PRODUCT.items()},
    "mkldnn::_linear_pointwise": _linear,
    "mkl::_mkl_linear": _linear,
}
