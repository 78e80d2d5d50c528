"""The operators that patterns are written in: the first primitive going down each call tree, in order of time.

Leaves of the call tree are the wrong unit: on a CPU even a matrix product calls something. So each tree is descended
until an operator of the table, and no further; views and wrappers on the way are not seen by the patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, repeat
from math import prod
from typing import NamedTuple

import numpy as np

from probe.analyzers.cost_models.structure import VIEWS, WRAPPERS
from probe.analyzers.operators.call_tree import under
from probe.trace import Dims, Int32s, Signature, Trace

MATRIX = frozenset({"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "_scaled_mm", "_int_mm"})
POINTWISE = frozenset(
    "add sub rsub mul div pow sqrt rsqrt exp exp2 expm1 log log1p log2 log10 neg abs reciprocal sin cos tan atan tanh "
    "sigmoid relu gelu silu mish elu hardswish hardtanh clamp clamp_min clamp_max leaky_relu softplus threshold where "
    "masked_fill lerp addcmul addcdiv square erf maximum minimum logical_not bitwise_not bitwise_and bitwise_or "
    "logical_and logical_or eq ne lt le gt ge sign floor ceil round "
    "sigmoid_backward tanh_backward gelu_backward silu_backward threshold_backward hardtanh_backward".split()
)
REDUCTION = frozenset(
    "sum mean var std amax amin max min argmax norm linalg_vector_norm logsumexp var_mean std_mean".split()
)
COPY = frozenset({"_to_copy", "copy_", "clone", "contiguous", "to", "fill_", "zero_"})
OTHER = frozenset(
    "_softmax _log_softmax _safe_softmax _softmax_backward_data _log_softmax_backward_data native_dropout "
    "native_dropout_backward dropout bernoulli_ native_layer_norm native_layer_norm_backward native_batch_norm "
    "native_group_norm convolution convolution_backward embedding index index_select gather cat stack tril triu "
    "scaled_dot_product_attention native_batch_norm_backward _fused_rms_norm rms_norm "
    "nll_loss_forward nll_loss2d_forward nll_loss_backward nll_loss2d_backward cudnn_batch_norm miopen_batch_norm roll "
    "arange embedding_dense_backward _embedding_bag_dense_backward index_add index_add_ index_put index_put_ "
    "index_copy index_copy_ scatter scatter_ scatter_add scatter_add_ nonzero topk masked_select one_hot sort "
    "cumsum cumprod".split()
)
ALIASES = (  # in-place forms that call those of another name
    "absolute_ clip_ divide_ float_power_ greater_ greater_equal_ less_ less_equal_ multiply_ negative_ not_equal_ "
    "relu6_ selu_ subtract_ true_divide_"
)
LEFT_TO_OTHERS = VIEWS | WRAPPERS | {f"aten::{name}" for name in ALIASES.split()}  # they write no element themselves
RECURRENT = frozenset({"aten::gru", "aten::lstm", "aten::rnn_tanh", "aten::rnn_relu"})  # Dynamo leaves them to eager
SEVERAL = ("_foreach_", "_fused_")  # over lists of tensors; what they call for each one is their own affair
TABLE = MATRIX | POINTWISE | REDUCTION | COPY | OTHER


class Unit(NamedTuple):
    """One call of a primitive operator.

    `name` is without torch's namespace and the underscore of in-place forms, except of those that only write.
    """

    row: int  # of Trace.host_ops
    name: str
    start_ns: int
    end_ns: int
    signature: Signature | None
    size: tuple[int, ...]  # of the largest tensor argument; of a pointwise operator what all of them broadcast to
    numel: int  # elements of that

    @property
    def dims(self) -> tuple[Dims, ...]:
        """Sizes of the arguments, () each where not recorded."""
        return self.signature.dims if self.signature else ()


def normalised(name: str) -> str | None:
    """The unit's name for an operator's, None where it is no unit.

    An in-place operator that no pattern knows is one, too: what it wrote is no longer what was there before.
    """
    if not name.startswith("aten::"):
        return None
    plain = name.removeprefix("aten::")
    if plain.startswith(SEVERAL):
        return plain.rstrip("_")
    if plain in TABLE:
        return plain.rstrip("_") if plain not in COPY else plain.strip("_")
    if not plain.endswith("_") or plain.endswith("__") or name in LEFT_TO_OTHERS:
        return None
    in_place = plain.rstrip("_")
    return in_place if in_place in TABLE else plain


def unit_runs(trace: Trace, step_of_op: Int32s) -> list[list[Unit]]:
    """The units of each step and thread that has any, in order of time."""
    ops = trace.host_ops
    known = [normalised(name) for name in trace.names]
    is_unit = np.array([name is not None for name in known], bool)[ops.name] if len(ops) else np.zeros(0, bool)
    rows = np.flatnonzero(is_unit & ~under(ops.parent, is_unit) & (step_of_op >= 0))
    rows = rows[np.lexsort((ops.start_ns[rows], ops.thread[rows], step_of_op[rows]))]
    signatures = (*trace.signatures, None)  # None at -1: arguments not recorded
    sizes = [_sized(signature, size) for size in (_largest, broadcast) for signature in signatures]
    broadcasts = np.array([name in POINTWISE for name in known], bool)[ops.name[rows]]
    given = (ops.signature[rows] % len(signatures) + broadcasts * len(signatures)).tolist()
    columns = (
        rows.tolist(), map(known.__getitem__, ops.name[rows].tolist()), ops.start_ns[rows].tolist(),
        ops.end_ns[rows].tolist(), *(map(column.__getitem__, given) for column in zip(*sizes, strict=True)),
    )  # fmt: skip
    units = list(map(tuple.__new__, repeat(Unit), zip(*columns, strict=True)))  # no call of Python's for each unit
    begins = np.flatnonzero(np.diff(step_of_op[rows], prepend=-2) | np.diff(ops.thread[rows], prepend=-2))
    return [units[first:last] for first, last in pairwise([*begins.tolist(), len(units)])]


def places(runs: Iterable[list[Unit]], scan: Callable[[list[Unit]], Iterable[tuple[int, int]]]) -> Iterator[list[Unit]]:
    """The units in each place, [first, last), that `scan` finds in a run; runs of the same calls are scanned once."""
    known: dict[tuple[tuple[str, int], ...], list[tuple[int, int]]] = {}
    for run in runs:
        spelling = tuple((unit.name, id(unit.signature)) for unit in run)
        if spelling not in known:
            known[spelling] = list(scan(run))
        for first, last in known[spelling]:
            yield run[first:last]


def broadcast(sizes: Sequence[Dims]) -> Dims:
    """Sizes of a pointwise result."""
    width = max(map(len, sizes), default=0)
    padded = [(1,) * (width - len(size)) + tuple(size) for size in sizes]
    return tuple(max(extents) if 0 not in extents else 0 for extents in zip(*padded, strict=True))


def _largest(sizes: Sequence[Dims]) -> Dims:
    """The sizes of the largest tensor."""
    return max(sizes, key=lambda d: prod(d) if d else 0, default=())


def _sized(
    signature: Signature | None, size_of: Callable[[Sequence[Dims]], Dims]
) -> tuple[Signature | None, Dims, int]:
    """A signature with the sizes that count of its tensor arguments, and their elements."""
    plain = [d for d in signature.dims if all(isinstance(n, int) for n in d)] if signature else []
    size = size_of(plain)
    return signature, size, prod(size) if size else 0
