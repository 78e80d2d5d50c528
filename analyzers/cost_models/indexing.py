"""What does reading or writing by index cost?

No arithmetic but the additions of an accumulating write. Traffic: the indices, then as many elements as they name,
but of a table at most all of it (repeated rows come from a cache), read for a gather; written for a scatter; read and
written for an accumulating one. Out of place, the copy of the target comes on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.dtypes import INT32, INT64
from probe.analyzers.cost_models.reduction import axis
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, Part, work


def _touched(table: Tensor, elements: int) -> float:
    """Bytes of `elements` of a table that indices name."""
    return float(min(elements, table.distinct) * table.element.itemsize)


def _gathered(call: Call, table: Tensor, index: Tensor | None, elements: int, assumes: str | None = None) -> Cost:
    out = dense((elements,), table.element)
    return work("indexing", table.element.name, 0, (index, _touched(table, elements)), (out,), assumes=assumes)


def _index_select(call: Call) -> Cost:
    """index_select(self, dim, index): whole slices along a dimension."""
    table, index = call.tensor(0), call.tensor(2)
    return _gathered(call, table, index, index.elements * _slice(call, table))


def _slice(call: Call, table: Tensor) -> int:
    """Elements at one index along the dimension in argument 1."""
    if len(table.sizes) < 2:
        return 1
    along = axis(call.integer(1, "dim"), len(table.sizes))
    return math.prod(size for i, size in enumerate(table.sizes) if i != along)


def _embedding(call: Call) -> Cost:
    """embedding(weight, indices): one row per index."""
    table, index = call.tensor(0), call.tensor(1)
    return _gathered(call, table, index, index.elements * _width(table))


def _width(table: Tensor) -> int:
    if len(table.sizes) != 2:
        raise UndeterminedError("an embedding table has two dimensions")
    return table.sizes[1]


def _gather(index_argument: int) -> Model:
    def cost(call: Call) -> Cost:
        table, index = call.tensor(0), call.tensor(index_argument)
        return _gathered(call, table, index, index.elements)

    return cost


def _index(call: Call) -> Cost:
    """index(self, indices): the index tensors are not recorded, the result's size comes from other calls."""
    table = call.tensor(0)
    if call.hints.output is None:
        raise UndeterminedError("sizes of the index tensors not recorded")
    out = dense(call.output(), table.element)
    if out.elements == 0:
        return _gathered(call, table, None, 0)
    index = dense(out.sizes[: max(len(out.sizes) - len(table.sizes) + 1, 1)], INT64)
    return _gathered(
        call, table, index, out.elements, f"{call.hints.source}; one index tensor over the first dimension"
    )


@dataclass(frozen=True)
class Write:
    """Where a writing operator keeps its arguments."""

    index: int
    source: int
    adds: bool = False
    slices: bool = False  # indices name slices, not single elements


def _write(at: Write) -> Model:
    def cost(call: Call) -> Cost:
        target, index = call.tensor(0), call.tensor(at.index)
        source = call.maybe(at.source)
        named = index.elements * (_slice_written(call, target, index, source) if at.slices else 1)
        touched = _touched(target, named)
        reads: list[Part] = [index, _source(source, named)]
        writes: list[Part] = [] if at.adds else [touched]
        if not call.name.endswith("_"):
            reads.append(target)
            writes.append(dense(target.sizes, target.element))
        updates = (touched,) if at.adds else ()
        return work("indexing", target.element.name, named if at.adds else 0, reads, writes, updates)

    return cost


def _source(source: Tensor | None, named: int) -> float:
    """Bytes read of the source, of which a scatter uses only as many elements as there are indices."""
    return 0.0 if source is None else float(min(source.distinct, named) * source.element.itemsize)


def _slice_written(call: Call, target: Tensor, index: Tensor, source: Tensor | None) -> int:
    if source is not None and source.sizes and index.elements:
        return source.elements // index.elements
    return _slice(call, target)


def _index_put(call: Call) -> Cost:
    """index_put_(self, indices, values, accumulate): the indices' tensors are not recorded."""
    raise UndeterminedError("sizes of the index tensors not recorded")


def _embedding_backward(rows_argument: int) -> Model:
    """The dense gradient of a table: zeros, then one row added per index."""

    def cost(call: Call) -> Cost:
        grad, index = call.tensor(0), call.tensor(1)
        width = grad.sizes[-1] if grad.sizes else 0
        table = dense((call.integer(rows_argument, "num_weights"), width), grad.element)
        touched = _touched(table, index.elements * width)
        flops = index.elements * width
        return work("indexing", grad.element.name, flops, (grad, index), (table,), (touched,))

    return cost


def _embedding_bag(call: Call) -> Cost:
    """_embedding_bag(weight, indices, offsets, …): the rows of a bag are added; with the bag of every index."""
    table, index, offsets = call.tensor(0), call.tensor(1), call.tensor(2)
    width = _width(table)
    bags = offsets.elements - int(call.number(7, 0) != 0)
    rows = _touched(table, index.elements * width)
    writes = (dense((max(bags, 0), width), table.element), dense(index.sizes, index.element))
    return work("indexing", table.element.name, index.elements * width, (index, offsets, rows), writes)


def _embedding_bag_backward(call: Call) -> Cost:
    """_embedding_bag_dense_backward(grad, indices, offset2bag, bag_size, maximum_indices, num_weights, …)."""
    grad, index = call.tensor(0), call.tensor(1)
    width = _width(grad)
    table = dense((call.integer(5, "num_weights"), width), grad.element)
    touched = _touched(table, index.elements * width)
    reads = (grad, index, call.maybe(2))
    return work("indexing", grad.element.name, index.elements * width, reads, (table,), (touched,))


def _search(values: int, boundaries: int) -> Model:
    """A binary search per value: log2 comparisons, as many boundaries read but at most all."""

    def cost(call: Call) -> Cost:
        x, edges = call.tensor(values), call.tensor(boundaries)
        row = edges.sizes[-1] if edges.sizes else 1
        out = dense(x.sizes, INT32 if call.number(2, 0) else INT64)
        return work("indexing", x.element.name, x.elements * math.log2(row + 1), (x, edges), (out,))

    return cost


def _data_dependent(call: Call) -> Cost:
    raise UndeterminedError("size of the result depends on the data")


_SCATTER, _SLICES = Write(index=2, source=3), Write(index=2, source=3, slices=True)
_SCATTER_ADD = Write(index=2, source=3, adds=True)
_INDEX_ADD = Write(index=2, source=3, adds=True, slices=True)

_WRITES: dict[str, Write] = {
    "scatter": _SCATTER, "scatter_add": _SCATTER_ADD, "scatter_reduce": _SCATTER_ADD, "index_add": _INDEX_ADD,
    "index_copy": _SLICES, "index_fill": Write(index=2, source=99, slices=True), "index_reduce": _INDEX_ADD,
    "put": Write(index=1, source=2),
}  # fmt: skip

_OTHERS: dict[str, Model] = {
    "index_select": _index_select, "embedding": _embedding, "gather": _gather(2), "take": _gather(1), "index": _index,
    "_unsafe_index": _index, "index_put_": _index_put, "index_put": _index_put, "_index_put_impl_": _index_put,
    "_unsafe_index_put": _index_put, "embedding_dense_backward": _embedding_backward(2),
    "embedding_backward": _embedding_backward(2), "_embedding_bag": _embedding_bag, "embedding_bag": _embedding_bag,
    "_embedding_bag_forward_only": _embedding_bag, "_embedding_bag_dense_backward": _embedding_bag_backward,
    "bucketize": _search(0, 1), "searchsorted": _search(1, 0),
    "nonzero": _data_dependent, "masked_select": _data_dependent, "_unique2": _data_dependent,
    "unique_dim": _data_dependent, "unique_consecutive": _data_dependent, "bincount": _data_dependent,
    "repeat_interleave": _data_dependent,
}  # fmt: skip

MODELS: dict[str, Model] = {
    **{f"aten::{name}{tail}": _write(at) for name, at in _WRITES.items() for tail in ("", "_")},
    **{f"aten::{name}": model for name, model in _OTHERS.items()},
}
