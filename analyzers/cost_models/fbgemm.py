"""What do the table-batched embeddings and sparse-feature operators of FBGEMM cost?

The tables are one flat buffer; a lookup reads a row per index, at most the whole buffer, and adds the rows of a bag.
The width of each table is data. It follows where there is one table, where rows and tables have the same mean width,
or where the lookups exceed the buffer, which then is read whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, work
from probe.trace import Dims, Signature

_LOOKUP = re.compile(r"fbgemm::split_embedding_codegen_lookup_(\w+)_function")
_LOOKUP_BACKWARD = re.compile(r"(?:torch::autograd::)?CppNode<SplitLookupFunction_(\w+)_Op>")
_PERMUTE_BACKWARD = re.compile(r"(?:torch::autograd::)?CppNode<fbgemm_gpu::PermutePooledEmbsFunction")

# Positions in split_embedding_codegen_lookup_*_function, equal in all recorded versions (fbgemm_gpu 0.1 to 0.4).
_WEIGHTS, _WIDTH_OFFSETS, _TOTAL_WIDTH, _INDICES, _OFFSETS, _STATE_ROWS = (1, 2), 6, 7, 11, 12, 20


def model_of(name: str) -> Model | None:
    """The model of an operator of this family, by the pattern of its name."""
    if name in MODELS:
        return MODELS[name]
    if _LOOKUP.fullmatch(name):
        return _lookup
    if _LOOKUP_BACKWARD.match(name):
        return _lookup_backward
    return _move if _PERMUTE_BACKWARD.match(name) else None


def is_lookup(name: str) -> bool:
    """Whether this is a forward lookup, whose backward has the same autograd sequence number."""
    return _LOOKUP.fullmatch(name) is not None


def is_lookup_backward(name: str) -> bool:
    """Whether this is the backward of a lookup."""
    return _LOOKUP_BACKWARD.match(name) is not None


def pools_to(lookup: Signature, result: Dims) -> bool:
    """Whether a lookup with these arguments can give a result of these sizes."""
    call = Call("", lookup)
    try:
        tables, count = _tables(call), _table_count(call)
        samples = (call.tensor(_OFFSETS).elements - 1) // count
        width = _one_width(call, tables) if count == 1 else None
    except UndeterminedError:
        return False
    return len(result) == 2 and result[0] == samples and width in (None, result[1])


def _one_width(call: Call, tables: list[Tensor]) -> int | None:
    """Width of a single table with one optimizer state per row; None where that is not recorded."""
    state = call.maybe(_STATE_ROWS)
    elements = sum(t.elements for t in tables)
    return elements // state.elements if state is not None and 0 < state.elements < elements else None


def _lookup(call: Call) -> Cost:
    """Indices, offsets and rows in; a pooled row of all tables per sample out."""
    tables, indices, offsets = _tables(call), call.tensor(_INDICES), call.tensor(_OFFSETS)
    samples, width = _pooled(call, offsets)
    rows, assumes = _rows(call, tables, indices, width)
    element = tables[0].element
    out = float(samples * width * 4)  # pooled in float32
    flops = indices.elements * width / _table_count(call)
    return work("indexing", element.name, flops, (indices, offsets, rows), (out,), assumes=assumes)


def _lookup_backward(call: Call) -> Cost:
    """The forward's indices and the gradient in; touched rows and their optimizer state read and written."""
    partner = call.hints.partner
    if partner is None:
        raise UndeterminedError("the lookup that this belongs to was not found")
    grad, forward = call.tensor(0), Call("", partner)
    tables, indices, offsets = _tables(forward), forward.tensor(_INDICES), forward.tensor(_OFFSETS)
    width = grad.sizes[-1] if grad.sizes else 0
    rows, assumes = _rows(forward, tables, indices, width)
    state = _touched_state(call.name, forward, tables, rows)
    flops = 2 * indices.elements * width / _table_count(forward)
    known = f"{assumes}; {call.hints.source}" if assumes else call.hints.source
    reads = (grad, indices, offsets)
    return work("indexing", grad.element.name, flops, reads, (), (rows, state), assumes=known)


def _tables(call: Call) -> list[Tensor]:
    tables = [call.tensor(i) for i in _WEIGHTS]
    filled = [t for t in tables if t.elements]
    if not filled:
        raise UndeterminedError("the tables' sizes are not recorded")
    return filled


def _table_count(call: Call) -> int:
    return max(call.tensor(_WIDTH_OFFSETS).elements - 1, 1)


def _pooled(call: Call, offsets: Tensor) -> tuple[int, int]:
    """Samples, and the width of all tables together."""
    if call.hints.output is not None:
        samples, width = dense(call.output(), offsets.element).sizes[-2:]
        return samples, width
    return (offsets.elements - 1) // _table_count(call), call.integer(_TOTAL_WIDTH, "total_D")


def _rows(call: Call, tables: list[Tensor], indices: Tensor, width: int) -> tuple[float, str | None]:
    """Bytes of the rows that the indices name, and what that rests on."""
    count, whole = _table_count(call), sum(t.elements for t in tables)
    named = indices.elements * width / count
    size = tables[0].element.itemsize
    if count == 1 or _equally_wide(call, whole, width / count):
        return min(named, whole) * size, None
    if named < 2 * whole:
        raise UndeterminedError("width of each table not recorded")
    return float(whole * size), "lookups by far exceed the tables, which are read whole"


def _equally_wide(call: Call, elements: int, mean_width: float) -> bool:
    """Whether the mean width over rows (one optimizer state per row) is that over tables."""
    state = call.maybe(_STATE_ROWS)
    return state is not None and state.elements > 0 and elements == state.elements * mean_width


def _touched_state(name: str, forward: Call, tables: list[Tensor], rows: float) -> float:
    """Bytes of optimizer state beside `rows` bytes of weights: one float32 per row, or per element."""
    elements = sum(t.elements for t in tables)
    state = forward.maybe(_STATE_ROWS)
    if "rowwise" not in name:
        return rows / tables[0].element.itemsize * 4
    if state is None or not elements:
        raise UndeterminedError("rows of the tables not recorded")
    return rows / (elements * tables[0].element.itemsize) * state.bytes


def _move(call: Call) -> Cost:
    """Argument 0, rearranged."""
    x = call.tensor(0)
    return work("indexing", x.element.name, 0, (x, *call.tensors(1)), (dense(x.sizes, x.element),))


def _check(call: Call) -> Cost:
    """bounds_check_indices(rows, indices, offsets, …): two comparisons per index, all read."""
    indices = call.tensor(1)
    return work("indexing", indices.element.name, 2 * indices.elements, call.tensors(0, 3))


def _sums(call: Call) -> Cost:
    """asynchronous_complete_cumsum: running sums with a leading zero."""
    x = call.tensor(0)
    out = dense((x.elements + 1,), x.element)
    return work("reduction", x.element.name, x.elements, (x,), (out,))


def _permute_sparse(call: Call) -> Cost:
    """permute_sparse_data(permute, lengths, values, weights): a permutation of all keys moves every value once."""
    permute, lengths, values = (call.tensor(i) for i in range(3))
    if not lengths.sizes or permute.elements != lengths.sizes[0]:
        raise UndeterminedError("size of the result depends on the data: keys are repeated or dropped")
    moved = [lengths, values, *call.tensors(3)]
    out = [dense(t.sizes, t.element) for t in moved]
    return work("indexing", values.element.name, 0, (permute, *moved), out, assumes="every key is kept once")


def _requantise(bytes_per_element: float, per_row: int) -> Model:
    """Quantised values out of argument 0: so many bytes per element, and more per row."""

    def cost(call: Call) -> Cost:
        x = call.tensor(0)
        rows = x.elements // x.sizes[-1] if x.sizes and x.sizes[-1] else 0
        out = x.elements * bytes_per_element + rows * per_row
        return work("pointwise", x.element.name, 2 * x.elements, (x,), (max(out, 0.0),))

    return cost


MODELS: dict[str, Callable[[Call], Cost]] = {
    "fbgemm::permute_pooled_embs_auto_grad": _move,
    "fbgemm::permute_pooled_embs": _move,
    "fbgemm::recat_embedding_grad_output_mixed_D_batch": _move,
    "fbgemm::recat_embedding_grad_output_mixed_D": _move,
    "fbgemm::bounds_check_indices": _check,
    "fbgemm::asynchronous_complete_cumsum": _sums,
    "fb::asynchronous_complete_cumsum": _sums,
    "fbgemm::permute_sparse_features": _permute_sparse,
    "fbgemm::permute_2D_sparse_data": _permute_sparse,
    "fbgemm::permute_sparse_data": _permute_sparse,
    "fbgemm::FloatToFP8RowwiseQuantized": _requantise(1, 8),  # a scale and a bias of float32 per row
    "fbgemm::FP8RowwiseQuantizedToFloat": _requantise(4, -32),
    "fbgemm::FloatToHFP8Quantized": _requantise(1, 0),
    "fbgemm::HFP8QuantizedToFloat": _requantise(4, 0),
}
