"""Which calls of a trace do the work that they stand for, and which hand it on to operators below them?

aten::linear calls aten::addmm, which does the work: only one of them may count. A call hands on when what is counted
below it is at least half of its own cost: in flops for matrix products, convolutions and attention, else in bytes.
Fills and copies below do not count as the work of anything but a copy; what an indexing operator has them do
(the zeros of a gradient, the copy of a target) is taken off its own bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from probe.analyzers.cost_models.catalogue import cost
from probe.analyzers.cost_models.completion import Calls, group_hints, row_hints
from probe.analyzers.cost_models.terms import ARITHMETIC, Cost, Kind, known
from probe.analyzers.operators.call_tree import levels
from probe.trace import Int32s, Int64s, Mask, Signature, Trace

Float64s = npt.NDArray[np.float64]

HANDED_ON = 0.5  # a call hands on when operators below it account for this part of its cost
_MOVES: frozenset[Kind] = frozenset(("copy", "random"))

# What is counted below a call, in columns.
FLOPS, MOVED, REDUCED, OTHER = range(4)  # flops; bytes of copies, of reductions, of all other kinds


@dataclass(frozen=True, eq=False)
class GroupCosts:
    """The work of groups of calls, [groups].

    `cost` is that of one whole call; `flops` and `bytes` are what an average call does itself, 0 where it hands its
    work on, NaN where it is not known.
    """

    cost: tuple[Cost, ...]
    flops: Float64s
    bytes: Float64s
    own_fraction: Float64s  # of the calls, those that do their work themselves; 1 for groups without calls

    def delegates(self, group: int) -> bool:
        """Whether all calls of the group hand their work on to operators below."""
        return bool(self.own_fraction[group] == 0)


def delegates(parent: Cost, below: Sequence[Cost]) -> bool:
    """Whether a call hands its work on to the calls below it, given those that do theirs themselves."""
    columns = _Columns.of(below)
    counted = _counted(columns, np.nan_to_num(columns.flops), np.nan_to_num(columns.bytes)).sum(axis=0)
    return bool(_handed_on(_Columns.of([parent]), counted[np.newaxis])[0])


def attribute(trace: Trace, of_op: Int32s, name: Sequence[str], signature: Sequence[Signature | None]) -> GroupCosts:
    """The costs of groups of calls; `of_op` is the group of each row of trace.host_ops."""
    calls = Calls(trace, of_op, name, signature)
    hints = group_hints(calls)
    variants = [cost(*call) for call in zip(name, signature, hints, strict=True)]
    chosen = of_op.astype(np.int64)  # per row the variant of its group's cost
    _complete(calls, variants, chosen)
    work = _own_work(trace, _Columns.of(variants), chosen)
    return _per_group(variants, chosen, of_op, len(name), work)


def _complete(calls: Calls, variants: list[Cost], chosen: Int64s) -> None:
    """Give calls that want it a variant of their own, made of what single other calls tell."""
    wanted = np.array([c.reason is not None and s is not None for c, s in zip(variants, calls.signature, strict=True)])
    made: dict[tuple[int, object], int] = {}
    for row, hint in row_hints(calls, wanted) if wanted.any() else ():
        group = int(calls.of_op[row])
        key = (group, hint)
        if key not in made:
            made[key] = len(variants)
            variants.append(cost(calls.name[group], calls.signature[group], hint))
        if known(variants[made[key]]) or not known(variants[group]):
            chosen[row] = made[key]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Costs as columns [n]; NaN for what is not known."""

    flops: Float64s
    bytes: Float64s
    arithmetic: Mask
    moves: Mask
    indexing: Mask
    reduces: Mask
    pointwise: Mask

    @classmethod
    def of(cls, costs: Sequence[Cost]) -> _Columns:
        return cls(
            flops=np.array([np.nan if c.flops is None else c.flops for c in costs], np.float64),
            bytes=np.array([np.nan if c.bytes is None else c.bytes for c in costs], np.float64),
            arithmetic=np.array([c.kind in ARITHMETIC for c in costs], np.bool_),
            moves=np.array([c.kind in _MOVES for c in costs], np.bool_),
            indexing=np.array([c.kind == "indexing" for c in costs], np.bool_),
            reduces=np.array([c.kind == "reduction" for c in costs], np.bool_),
            pointwise=np.array([c.kind == "pointwise" for c in costs], np.bool_),
        )

    def take(self, rows: Int64s) -> _Columns:
        """The given rows, in their order."""
        return _Columns(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class _Work:
    """Own work per call, [ops]."""

    flops: Float64s
    bytes: Float64s
    own: Mask


def _own_work(trace: Trace, variants: _Columns, chosen: Int64s) -> _Work:
    """Go up from the innermost calls, adding what is counted below each one."""
    parent = trace.host_ops.parent
    below = np.zeros((len(parent), 4))
    own, calls = np.ones(len(parent), np.bool_), np.zeros(len(parent), np.bool_)
    calls[parent[parent >= 0]] = True
    flops, moved = variants.flops[chosen], variants.bytes[chosen]
    counted = _counted(variants, np.nan_to_num(variants.flops), np.nan_to_num(variants.bytes))[chosen]
    for level in reversed(levels(parent)):
        rows = level[calls[level]]  # the others, which are most, hand nothing on
        each = variants.take(chosen[rows])
        handed = _handed_on(each, below[rows])
        own[rows] = ~handed
        flops[rows[handed]], moved[rows[handed]] = 0.0, 0.0
        indexed = rows[~handed & each.indexing]
        moved[indexed] = np.maximum(moved[indexed] - below[indexed, MOVED], 0.0)
        counted[rows] = below[rows] + _counted(each, np.nan_to_num(flops[rows]), np.nan_to_num(moved[rows]))
        inner = level[parent[level] >= 0]
        for column in (FLOPS, MOVED, REDUCED, OTHER):  # one at a time: numpy adds at places of rows of four slowly
            np.add.at(below[:, column], parent[inner], counted[inner, column])
    return _Work(flops, moved, own)


def _counted(each: _Columns, flops: Float64s, moved: Float64s) -> Float64s:
    """What calls add to the sums of those above them, [calls, 4]."""
    other = ~each.moves & ~each.reduces
    return np.stack([flops, moved * each.moves, moved * each.reduces, moved * other], axis=1)


def _handed_on(each: _Columns, below: Float64s) -> Mask:
    """Which calls hand on, given the sums below them [calls, 4].

    The mean below a loss is not the work of the loss's elementwise part, nor is a fill that of a product.
    """
    by_flops = ~np.isnan(each.flops) & (each.arithmetic | np.isnan(each.bytes))
    moved = below[:, OTHER] + below[:, MOVED] * each.moves + below[:, REDUCED] * ~each.pointwise
    own = np.where(by_flops, each.flops, np.nan_to_num(each.bytes))
    done = np.where(by_flops, below[:, FLOPS], moved)
    nothing_told = np.isnan(each.flops) & np.isnan(each.bytes)  # such as einsum, whose products are known
    elsewhere = each.arithmetic * below[:, FLOPS] + each.moves * below[:, MOVED]
    return np.asarray(np.where(nothing_told, elsewhere > 0, (own > 0) & (done >= HANDED_ON * own)), np.bool_)


def _per_group(variants: Sequence[Cost], chosen: Int64s, of_op: Int32s, groups: int, work: _Work) -> GroupCosts:
    """Averages over the calls of each group; a group without calls keeps the cost of one."""
    calls = np.bincount(of_op, minlength=groups)
    base = _Columns.of(variants[:groups])

    def mean(values: Float64s, without: Float64s) -> Float64s:
        total = np.bincount(of_op, weights=values, minlength=groups)
        return np.asarray(np.where(calls > 0, total / np.maximum(calls, 1), without), np.float64)

    one = list(variants[:groups])
    for row in np.flatnonzero(chosen != of_op)[::-1].tolist():
        one[of_op[row]] = variants[chosen[row]]
    return GroupCosts(
        cost=tuple(one),
        flops=mean(work.flops, base.flops),
        bytes=mean(work.bytes, base.bytes),
        own_fraction=mean(work.own.astype(np.float64), np.ones(groups)),
    )
