"""The operators that patterns are written in: the first primitive going down each call tree, in order of time.

Leaves of the call tree are the wrong unit: on a CPU even a matrix product calls something. So each tree is descended
until an operator of the table, and no further; views and wrappers on the way are not seen by the patterns.
"""

from __future__ import annotations

from itertools import groupby
from math import prod
from typing import NamedTuple

import numpy as np

from probe.trace import Dims, Int32s, Signature, Trace

MATRIX = frozenset({"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "_scaled_mm", "_int_mm"})
POINTWISE = frozenset(
    "add sub rsub mul div pow sqrt rsqrt exp log neg abs reciprocal sin cos tanh sigmoid relu gelu silu mish elu "
    "hardswish hardtanh clamp clamp_min clamp_max leaky_relu softplus threshold where masked_fill lerp addcmul addcdiv "
    "square erf maximum minimum logical_not bitwise_not eq ne lt le gt ge sign floor ceil round "
    "sigmoid_backward tanh_backward gelu_backward silu_backward threshold_backward hardtanh_backward".split()
)
REDUCTION = frozenset("sum mean var std amax amin max min argmax norm linalg_vector_norm logsumexp var_mean".split())
COPY = frozenset({"_to_copy", "copy_", "clone", "contiguous", "to", "fill_", "zero_"})
OTHER = frozenset(
    "_softmax _log_softmax _safe_softmax _softmax_backward_data _log_softmax_backward_data native_dropout "
    "native_dropout_backward dropout bernoulli_ native_layer_norm native_layer_norm_backward native_batch_norm "
    "native_group_norm convolution convolution_backward embedding index index_select gather cat stack tril triu "
    "scaled_dot_product_attention native_batch_norm_backward _fused_rms_norm rms_norm".split()
)
SEVERAL = ("_foreach_", "_fused_")  # over lists of tensors; what they call for each one is their own affair
TABLE = MATRIX | POINTWISE | REDUCTION | COPY | OTHER


class Unit(NamedTuple):
    """One call of a primitive operator. `name` without torch's namespace and the underscore of in-place forms."""

    row: int  # of Trace.host_ops
    name: str
    start_ns: int
    end_ns: int
    signature: Signature | None

    @property
    def dims(self) -> tuple[Dims, ...]:
        """Sizes of the arguments, () each where not recorded."""
        return self.signature.dims if self.signature else ()

    @property
    def size(self) -> tuple[int, ...]:
        """Sizes of the largest tensor argument: of the result, for pointwise operators without two-way broadcasts."""
        plain = [d for d in self.dims if all(isinstance(n, int) for n in d)]
        return max(plain, key=lambda d: prod(d) if d else 0, default=())

    @property
    def numel(self) -> int:
        """Elements of that tensor."""
        return prod(self.size) if self.size else 0


def normalised(name: str) -> str | None:
    """The unit's name for an operator's, None where it is no unit."""
    if not name.startswith("aten::"):
        return None
    plain = name.removeprefix("aten::")
    if plain.startswith(SEVERAL):
        return plain.rstrip("_")
    if plain in TABLE:
        return plain.rstrip("_") if plain not in COPY else plain.strip("_")
    in_place = plain.rstrip("_")
    return in_place if in_place in POINTWISE else None


def unit_runs(trace: Trace, step_of_op: Int32s) -> list[list[Unit]]:
    """The units of each step and thread that has any, in order of time."""
    ops = trace.host_ops
    known = [normalised(name) for name in trace.names]
    is_unit = np.array([name is not None for name in known], bool)[ops.name] if len(ops) else np.zeros(0, bool)
    rows = [row for row in np.flatnonzero(is_unit & ~_under_a_unit(ops.parent, is_unit)) if step_of_op[row] >= 0]
    units = [(int(step_of_op[r]), int(ops.thread[r]), _unit(trace, int(r), known)) for r in rows]
    units.sort(key=lambda entry: (entry[0], entry[1], entry[2].start_ns))
    return [[unit for _, _, unit in run] for _, run in groupby(units, key=lambda entry: entry[:2])]


def _under_a_unit(parent: Int32s, is_unit: np.ndarray) -> np.ndarray:
    """Which operators have a unit among their callers."""
    under = np.zeros(len(parent), bool)
    for row, above in enumerate(parent.tolist()):
        if above >= 0:
            under[row] = under[above] or is_unit[above]
    return under


def _unit(trace: Trace, row: int, known: list[str | None]) -> Unit:
    ops = trace.host_ops
    signature = int(ops.signature[row])
    return Unit(
        row=row,
        name=known[ops.name[row]] or "",
        start_ns=int(ops.start_ns[row]),
        end_ns=int(ops.end_ns[row]),
        signature=trace.signatures[signature] if signature >= 0 else None,
    )
