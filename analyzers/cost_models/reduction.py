"""What does a reduction, a scan or a sort cost?

Arithmetic per element of the input: sum, maximum and the like 1; mean 1; variance 4 (mean, deviation, square, sum);
norm 2; log-sum-exp 4 (maximum, difference, exponential, sum). A sort counts log2(n) comparisons per element. Traffic:
the input read once and the result written once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.dtypes import BOOL, INT64, ElementType
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Sizes, Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, attempted, work

NEGLIGIBLE = 1 / 50  # a result at most this part of the input may stay out where its size is not recorded


@dataclass(frozen=True)
class Reduction:
    """How a reduction's schema and results look."""

    per_element: int
    dim: int = 1  # the argument with the reduced dimensions
    values: int = 1  # results of the input's type per position
    indices: int = 0  # results of type int64 per position
    truth: bool = False
    int_sum: bool = False  # sums of integers are int64


def _model(kind: Reduction) -> Model:
    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        flops = kind.per_element * x.elements
        try:
            out, assumes = _positions(call, kind, x), None
        except UndeterminedError as undetermined:
            out, assumes = _bounded(x, undetermined)
        each = kind.values * _result_type(x, kind).itemsize + kind.indices * INT64.itemsize
        return work("reduction", x.element.name, flops, (x,), (float(out * each),), assumes=assumes)

    return cost


def _result_type(x: Tensor, kind: Reduction) -> ElementType:
    if kind.truth:
        return BOOL
    return INT64 if kind.int_sum and not x.element.is_floating else x.element


def _bounded(x: Tensor, undetermined: UndeterminedError) -> tuple[int, str]:
    """Positions of an unrecorded result: none, where even the largest possible result is negligible."""
    if x.sizes and min(x.sizes) * NEGLIGIBLE >= 1:
        return 0, f"{undetermined.reason}: the result, at most 1/{min(x.sizes)} of the input, is left out"
    raise undetermined


def _positions(call: Call, kind: Reduction, x: Tensor) -> int:
    """How many results there are, from the reduced dimensions or the given result."""
    if kind.dim >= len(call) or len(call) == 1:
        return 1
    try:
        dims = _dims(call, kind, len(x.sizes))
    except UndeterminedError:
        given = next(iter(call.tensors(kind.dim + 1)), None)
        if given is None or 0 in given.sizes:
            raise
        return given.elements
    return math.prod(size for i, size in enumerate(x.sizes) if i not in dims)


def _dims(call: Call, kind: Reduction, rank: int) -> set[int]:
    """The reduced dimensions; all of them where none is named."""
    if call.dtype(kind.dim) == "" and call.signature.scalars:
        return set(range(rank))
    if call.dtype(kind.dim) == "" and len(call) == kind.dim + 1:  # sum(self, dtype) and its kin
        return set(range(rank))
    value = call.scalar(kind.dim, "dim")
    if isinstance(value, bool) or value is None or value == []:  # var(self, unbiased)
        return set(range(rank))
    return {axis(d, rank) for d in call.integers(kind.dim, "dim")}


def axis(dim: int, rank: int) -> int:
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise UndeterminedError("reduced dimension out of range")
    return dim % max(rank, 1)


def _extremum(call: Call) -> Cost:
    """max, min: of all elements, along a dimension with indices, or of two tensors."""
    if call.is_tensor(1) and len(call) <= 3:
        a, b = call.tensor(0), call.tensor(1)
        out = a if a.elements >= b.elements else b
        return work("pointwise", a.element.name, out.elements, (a, b), (dense(out.sizes, out.element),))
    return _model(Reduction(1, indices=0 if len(call) < 2 else 1))(call)


def _scan(per_element: int, indices: int = 0) -> Model:
    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        element = x.element if x.element.is_floating or indices else INT64
        out = dense(x.sizes, element)
        also = dense(x.sizes, INT64) if indices else None
        flops = per_element * x.elements
        if call.name.endswith("_"):
            return work("reduction", x.element.name, flops, (), (), (x,))
        return work("reduction", x.element.name, flops, (x,), (out, also))

    return cost


def _sort(dim_argument: int) -> Model:
    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        flops, reason = attempted(lambda: x.elements * math.log2(max(_length(call, dim_argument, x.sizes), 1)))
        out = dense(x.sizes, x.element)
        return work("reduction", x.element.name, flops, (x,), (out, dense(x.sizes, INT64)), reason=reason)

    return cost


def _length(call: Call, dim_argument: int, sizes: Sizes) -> int:
    """Length of the sorted dimension."""
    if len(sizes) < 2:
        return sizes[0] if sizes else 1
    return sizes[axis(call.integer(dim_argument, "dim"), len(sizes))]


def _topk(call: Call) -> Cost:
    """topk(self, k, dim): at least one comparison per element; k values and indices per row."""
    x, k = call.tensor(0), call.integer(1, "k")
    length = _length(call, 2, x.sizes)
    rows = x.elements // length if length else 0
    out = max(k, 0) * rows
    return work("reduction", x.element.name, x.elements, (x,), (float(out * (x.element.itemsize + 8)),))


_REDUCTIONS: dict[str, Reduction] = {
    **{name: Reduction(1, int_sum=True) for name in ("sum", "nansum", "prod", "count_nonzero")},
    **{name: Reduction(1) for name in ("mean", "nanmean", "amax", "amin")},
    **{name: Reduction(1, values=0, indices=1) for name in ("argmax", "argmin")},
    **{name: Reduction(1, truth=True) for name in ("all", "any")},
    **{name: Reduction(4) for name in ("var", "std", "logsumexp")},
    **{name: Reduction(4, values=2) for name in ("var_mean", "std_mean")},
    "norm": Reduction(2, dim=2),
    "linalg_vector_norm": Reduction(2, dim=2),
    "aminmax": Reduction(2, values=2),
}

_OTHERS: dict[str, Model] = {
    "max": _extremum, "min": _extremum, "sort": _sort(1), "argsort": _sort(1), "topk": _topk,
    "cumsum": _scan(1), "cumprod": _scan(1), "cumsum_": _scan(1), "logcumsumexp": _scan(4),
    "cummax": _scan(1, indices=1), "cummin": _scan(1, indices=1),
    "_cummax_helper": _scan(1, indices=1), "_cummin_helper": _scan(1, indices=1),
}  # fmt: skip

MODELS: dict[str, Model] = {
    **{f"aten::{name}": _model(kind) for name, kind in _REDUCTIONS.items()},
    **{f"aten::{name}": model for name, model in _OTHERS.items()},
}
