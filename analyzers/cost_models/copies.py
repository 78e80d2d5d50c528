"""What does it cost to copy, fill, join, pad, pool, or draw numbers?

Copies and fills do no arithmetic; a change of type is none either. Traffic: the source read once by its distinct
elements, the target written once. Random numbers count no arithmetic: the generator works on integers.
"""

from __future__ import annotations

from probe.analyzers.cost_models.call import Call, all_tensors
from probe.analyzers.cost_models.dtypes import BOOL, BY_NUMBER, INT64
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, Kind, work


def _copy(call: Call) -> Cost:
    """copy_(target, source)."""
    target, source = call.tensor(0), call.tensor(1)
    return work("copy", target.element.name, 0, (source,), (target,))


def _duplicate(call: Call) -> Cost:
    """A new tensor with the elements of argument 0."""
    x = call.tensor(0)
    return work("copy", x.element.name, 0, (x,), (dense(x.sizes, x.element),))


def _convert(call: Call) -> Cost:
    """_to_copy(self, dtype, …): a new tensor, perhaps of another type."""
    x = call.tensor(0)
    asked = call.element(1, x.element) if len(call) > 1 else x.element
    return work("copy", asked.name, 0, (x,), (dense(x.sizes, asked),))


def _fill(kind: Kind = "copy") -> Model:
    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        return work(kind, x.element.name, 0, (), (x,))

    return cost


def _join(call: Call) -> Cost:
    """cat, stack: every tensor of the list read and its elements written once."""
    tensors = list(all_tensors(call))[: _given(call)]
    if not tensors:
        raise UndeterminedError("sizes of a tensor list not recorded")
    written = sum(t.elements * t.element.itemsize for t in tensors)
    return work("copy", tensors[0].element.name, 0, tensors, (float(written),), assumes=call.hints.source or None)


def _given(call: Call) -> int:
    """Tensors in the joined list, which is argument 0; what comes later is the given result."""
    return len(call.list_sizes(0))


def _triangle(call: Call) -> Cost:
    x = call.tensor(0)
    if call.name.endswith("_"):
        return work("copy", x.element.name, 0, (), (), (x,))
    return _duplicate(call)


def _pad(call: Call) -> Cost:
    """constant_pad_nd(self, pad): two numbers per dimension, from the last one on."""
    x, pad = call.tensor(0), call.integers(1, "pad")
    sizes = list(x.sizes)
    for i in range(min(len(pad) // 2, len(sizes))):
        sizes[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return work("copy", x.element.name, 0, (x,), (dense(sizes, x.element),))


def _range(call: Call) -> Cost:
    """arange(start, end, step, result): the form that fills a given tensor."""
    if not call.is_tensor(3):
        raise UndeterminedError("type of the result not recorded")
    start, end, step = (call.scalar(i, name) for i, name in enumerate(("start", "end", "step")))
    if not all(isinstance(v, int | float) for v in (start, end, step)) or not step:
        raise UndeterminedError("scalar `step` not recorded")
    count = (end - start) / step
    if not 0 <= count < 2**53:
        raise UndeterminedError("arange runs backwards")
    element = call.tensor(3).element
    return work("copy", element.name, 0, (), (float(-(-count // 1) * element.itemsize),))


def _made(sizes_argument: int, type_argument: int, kind: Kind) -> Model:
    """A new tensor of given sizes and type; torch's default type is not recorded."""

    def cost(call: Call) -> Cost:
        element = BY_NUMBER.get(call.integer(type_argument, "dtype"))
        if element is None:
            raise UndeterminedError("unknown dtype number")
        out = dense(call.integers(sizes_argument, "size"), element)
        return work(kind, out.element.name, 0, (), (out,))

    return cost


def _like(kind: Kind) -> Model:
    """A new tensor as large as argument 0, of the type in argument 1."""

    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        element = call.element(1, x.element) if call.signature.scalars and len(call) > 1 else x.element
        return work(kind, element.name, 0, (), (dense(x.sizes, element),))

    return cost


def _dropout(call: Call) -> Cost:
    """native_dropout: a comparison and a product per element, result and mask."""
    x = call.tensor(0)
    return work("random", x.element.name, 2 * x.elements, (x,), (dense(x.sizes, x.element), dense(x.sizes, BOOL)))


def _permutation(call: Call) -> Cost:
    """randperm(n)."""
    n = call.integer(0, "n")
    return work("random", INT64.name, 0, (), (dense((n,), INT64),))


def _read_back(call: Call) -> Cost:
    """item: one element comes to the host, which waits for it."""
    x: Tensor | None = call.maybe(0)
    return work("sync", x.element.name if x else None, 0, (), ())


_COPIES: dict[str, Model] = {
    "copy_": _copy, "_copy_from": _duplicate, "clone": _duplicate, "_to_copy": _convert, "_pin_memory": _duplicate,
    "pin_memory": _duplicate, "fill_": _fill(), "zero_": _fill(), "zeros_like": _like("copy"),
    "ones_like": _like("copy"), "full_like": _fill(), "cat": _join, "_cat": _join, "stack": _join, "_stack": _join,
    "hstack": _join, "vstack": _join, "concat": _join, "concatenate": _join,
    "tril": _triangle, "triu": _triangle, "tril_": _triangle, "triu_": _triangle, "flip": _duplicate,
    "roll": _duplicate, "constant_pad_nd": _pad, "arange": _range, "range": _range,
    "zeros": _made(0, 1, "copy"), "ones": _made(0, 1, "copy"), "full": _made(0, 2, "copy"),
    "detach_copy": _duplicate, "lift_fresh_copy": _duplicate, "view_copy": _duplicate, "_reshape_copy": _duplicate,
    "expand_copy": _duplicate, "permute_copy": _duplicate, "transpose_copy": _duplicate,
}  # fmt: skip

_RANDOM: dict[str, Model] = {
    **{f"{name}_": _fill("random") for name in (
        "normal", "uniform", "random", "bernoulli", "exponential", "cauchy", "geometric", "log_normal")},
    **{name: _like("random") for name in ("rand_like", "randn_like", "bernoulli")},
    "native_dropout": _dropout, "_fused_dropout": _dropout, "randperm": _permutation,
}  # fmt: skip

MODELS: dict[str, Model] = {
    **{f"aten::{name}": model for name, model in (_COPIES | _RANDOM).items()},
    "aten::item": _read_back,
    "aten::_local_scalar_dense": _read_back,
    "aten::is_nonzero": _read_back,
    "aten::equal": lambda call: work("sync", None, call.tensor(0).elements, call.tensors(0, 2)),
}
