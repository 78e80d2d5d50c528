"""F23: sums into rows chosen by an index, where rows that are hit often are waited for, or one thread does it all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction, rows_between, share_of_step
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims, Signature
from probe.units import format_fraction, format_time

SHARE = 0.05  # of the step
INDICES = ("long int", "int", "TensorList")  # types of arguments that hold indices
AWAY = 3.0  # from the roof: what comes nearer needs no other operator
ADDS = {  # operator, and the argument that says that it accumulates; None where it always does
    "aten::index_add_": None, "aten::index_add": None, "aten::scatter_add_": None, "aten::scatter_add": None,
    "aten::scatter_reduce_": None, "aten::scatter_reduce": None, "aten::index_reduce_": None,
    "aten::index_put_": 3, "aten::_index_put_impl_": 3, "aten::index_put": 3,
}  # fmt: skip
SEGMENTS = "torch.segment_reduce(rows[order], reduce, lengths=counts)  # order = index.argsort(), once for all steps"
BETTER = {  # what to call instead, and how
    "index_put": (
        "index_add_",
        "out.index_add_(0, index, rows)  # not out.index_put_((index,), rows, accumulate=True)",
    ),
    "scatter_add": (
        "index_add_",
        "out.index_add_(0, index, rows)  # whole rows by one index, not one for each element",
    ),
    "index_add": ("a sum over sorted segments", SEGMENTS),
    "scatter_reduce": ("a reduction of sorted segments", SEGMENTS),
    "index_reduce": ("a reduction of sorted segments", SEGMENTS),
}
# On a CPU the others take as long as what they would replace, and sums over sorted segments take longer.
ON_CPU = "scatter_add"
WIDE = 16  # elements of a row: index_add_ spends on a row what scatter_add_ spends on some eight of them
INDEX_SHARE = 8 / 20  # of the bytes: an index of 8 with each value of 4 that is added to one of 4, read and written

FLAT = ("scatter_add_", "out.scatter_add_(0, index, values)  # or torch.bincount(index, values)")


def find(context: Context) -> Iterator[Match]:
    """One match per operator, for all its calls that are far from the roof."""
    ops, trace = context.trace.host_ops, context.trace
    adds = trace.named(lambda name: name in ADDS)[ops.name]
    rows = np.flatnonzero(adds & ~under(ops.parent, adds) & (context.groups.step_of_op >= 0))
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows.tolist():
        name = trace.names[ops.name[row]]
        if row not in context.claimed and _accumulates(ADDS[name], _signature(context, row)):
            found[name.removeprefix("aten::").rstrip("_").replace("_index_put_impl", "index_put")].append(row)
    for name, same in found.items():
        match = _match(context, name, same)
        if match is not None:
            yield match


def _signature(context: Context, row: int) -> Signature | None:
    at = int(context.trace.host_ops.signature[row])
    return context.trace.signatures[at] if at >= 0 else None


def _accumulates(flag: int | None, signature: Signature | None) -> bool:
    return flag is None or (signature is not None and signature.scalars[flag : flag + 1] == ("True",))


def _match(context: Context, name: str, rows: list[int]) -> Match | None:
    spent_s = context.seconds(rows) * bare_fraction(context)
    moved_s = context.roof_s(sum(_bytes(_signature(context, row)) for row in rows) / len(context.steps))
    if moved_s is None or share_of_step(context, spent_s) < SHARE or spent_s < AWAY * moved_s:
        return None
    signature = _signature(context, max(rows, key=lambda row: _bytes(_signature(context, row))))
    on_cpu = not context.trace.on_device
    if on_cpu and not (name == ON_CPU and _index_of_each(signature)):
        return None
    flat = signature is not None and max(map(len, signature.dims), default=0) == 1
    better, how = FLAT if flat and name in ("index_put", "index_add") else BETTER[name]
    calls = len(rows) / len(context.steps)
    return Match(
        rows=tuple(r for row in rows for r in rows_between(context, row, row)),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key=name,
        summary=(
            f"{name} adds into rows by index {times(calls)} and takes {format_time(spent_s)}, "
            f"{format_fraction(share_of_step(context, spent_s))} of the step; "
            f"its bytes would take {format_time(moved_s)}"
        ),
        evidence=(
            *((f"largest call over {[list(d) for d in signature.dims if d]}",) if signature else ()),
            *(("an index is read with every element: two fifths of the bytes",) if on_cpu else ()),
        ),
        saving_s=as_recorded_s(context, spent_s * INDEX_SHARE if on_cpu else spent_s - AWAY * moved_s),
        where=times(calls),
        replacement=better,
        how=how,
    )


def _index_of_each(signature: Signature | None) -> bool:
    """Whether wide rows have an index for every element in memory: one that is expanded has a stride of 0."""
    dims, strides = (signature.dims[2:3], signature.strides[2:3]) if signature else ((), ())
    if not dims or len(dims[0]) != 2 or not isinstance(dims[0][-1], int) or dims[0][-1] < WIDE:
        return False
    return not (strides and strides[0] and strides[0][-1] == 0)


def _bytes(signature: Signature | None) -> float:
    """What has to be moved: values read, and the target read and written; a row has one index, which is little."""
    if signature is None:
        return 0.0
    pairs = zip(signature.dims, signature.dtypes, strict=False)
    read = sum(4 * _elements(dims) for dims, dtype in pairs if dtype not in INDICES)
    return float(read + 4 * _elements(signature.dims[0]))


def _elements(dims: Dims) -> int:
    """Elements of an argument, of all tensors where it is a list."""
    if dims and isinstance(dims[0], tuple):
        return sum(map(_elements, dims))
    return prod(dims) if dims else 0


RULES = (
    Rule(
        "F23", "scatter-contention", "sums by index far below the memory's speed", find,
        trigger="index_add, scatter_add, scatter_reduce, accumulating index_put: 5 % of the step, three times its "
        "roof; on a CPU scatter_add with an index for every element of wide rows",
        advice="index_add_ for whole rows; sorted indices and a segment sum where rows are hit often",
        saving="their time less three times that of the bytes, which the best of them take; on a CPU the indices' "
        "share of the bytes",
        cannot_show="how often each row is hit: that is in the values of the index",
        proof="module", about="compute", needs=("shapes",),
        example=Example("out.index_put_((i,), x, accumulate=True)", "out.index_add_(0, i, x)"),
    ),
)  # fmt: skip
