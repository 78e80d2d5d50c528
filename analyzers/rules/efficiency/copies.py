"""F18, F19: tensors copied or cast where the operators around them could do without."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.flow import Flow
from probe.analyzers.rules.matching.patterns import op, through
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction, rows_between, share_of_step
from probe.analyzers.rules.matching.units import POINTWISE, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.updates.parameter_loops import cast_types, changes_type
from probe.trace import Dims
from probe.units import format_bytes, format_fraction, format_time

COPIES = frozenset({"copy", "clone", "contiguous"})
COPY_SHARE = 0.05  # of the step
CAST_SHARE = 0.03
LEAST_BYTES = 1 << 14  # of one copy: smaller ones cost their dispatch, which other rules speak of

Sort = Literal["as it was", "to another order of dimensions", "of a broadcast tensor"]
ADVICE: dict[Sort, tuple[str, str]] = {
    "as it was": ("no copy", "y = x  # instead of x.clone(), where nothing changes x afterwards"),
    "to another order of dimensions": (
        "one layout throughout",
        "keep one order of dimensions from layer to layer; permute the weight or the einsum instead of the activations",
    ),
    "of a broadcast tensor": ("broadcasting", "x.expand(…) or x[:, None]  # no repeat(), no contiguous() behind it"),
}


def copied(context: Context) -> Iterator[Match]:
    """F18: copies of one sort that take 5 % of the step or more."""
    sorts: dict[Sort, list[Unit]] = defaultdict(list)
    for unit in context.free_units(lambda u: u.name in COPIES):
        sort = _sort(unit)
        if sort is not None and not changes_type(unit) and _is_users(context, unit):
            sorts[sort].append(unit)
    for sort, units in sorts.items():
        rows = [u.row for u in units]
        spent_s = context.seconds(rows) * bare_fraction(context)
        if share_of_step(context, spent_s) < COPY_SHARE:
            continue
        yield _copy_match(context, sort, units, spent_s)


def _copy_match(context: Context, sort: Sort, units: Sequence[Unit], spent_s: float) -> Match:
    moved = sum(context.costs[context.groups.of_op[u.row]].bytes or 0.0 for u in units) / len(context.steps)
    calls = len(units) / len(context.steps)
    largest = max(units, key=lambda u: u.numel)
    return Match(
        rows=tuple(row for u in units for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in units})),
        key=sort.replace(" ", "-"),
        summary=(
            f"tensors are copied {sort} {times(calls)}, {format_time(spent_s)}, "
            f"{format_fraction(share_of_step(context, spent_s))} of the step"
        ),
        evidence=(
            f"the largest is {list(largest.size)}",
            *((f"{format_bytes(int(moved))} moved per step",) if moved else ()),
            f"by {', '.join(sorted({u.name for u in units}))}",
        ),
        saving_s=as_recorded_s(context, spent_s),
        where=times(calls),
        replacement=ADVICE[sort][0],
        how=ADVICE[sort][1],
    )


def _is_users(context: Context, unit: Unit) -> bool:
    """Whether the user's code asked for a copy, and not autograd or an operator that needs one inside."""
    ops, names = context.trace.host_ops, context.trace.names
    parent = int(ops.parent[unit.row])
    while parent >= 0 and names[ops.name[parent]] in ("aten::reshape", "aten::repeat", "aten::contiguous", "aten::to"):
        parent = int(ops.parent[parent])
    name = names[ops.name[parent]] if parent >= 0 else ""
    return not name.startswith(("aten::", "torch::autograd")) and not context.under_engine[unit.row]


def _sort(unit: Unit) -> Sort | None:
    """What a copy does to the layout; None where it is small or its strides were not recorded."""
    signature = unit.signature
    if signature is None or unit.numel * 4 < LEAST_BYTES:
        return None
    source = 1 if unit.name == "copy" else 0
    if source >= len(signature.strides) or source >= len(signature.dims):
        return None
    dims, strides = signature.dims[source], signature.strides[source]
    if not dims or len(dims) != len(strides):
        return None
    if any(stride == 0 and size > 1 for size, stride in zip(dims, strides, strict=True)):
        return "of a broadcast tensor"
    target = signature.strides[0] if unit.name == "copy" and signature.dims[0] == dims else contiguous(dims)
    if unit.name == "clone":
        keeps = len(signature.scalars) < 2 or signature.scalars[1] in ("", "1")  # torch.preserve_format
        target = strides if keeps and _is_dense(dims, strides) else target
    moving = [axis for axis, size in enumerate(dims) if size > 1]
    same = [strides[axis] for axis in moving] == [target[axis] for axis in moving]
    if same:
        return "as it was" if unit.name == "clone" else None
    return "to another order of dimensions" if _order(dims, strides) != _order(dims, target) else None


def contiguous(dims: Dims) -> Dims:
    """Strides of a tensor of these sizes without gaps, last dimension fastest."""
    return tuple(prod(dims[axis + 1 :]) for axis in range(len(dims)))


def _is_dense(dims: Dims, strides: Dims) -> bool:
    return bool(1 + sum((size - 1) * stride for size, stride in zip(dims, strides, strict=True)) == prod(dims))


def _order(dims: Dims, strides: Dims) -> list[int]:
    """Dimensions of more than one element, the slowest first."""
    moving = [axis for axis, size in enumerate(dims) if size > 1]
    return sorted(moving, key=lambda axis: -strides[axis])


# A cast to another type and back, with nothing but pointwise operators between.
CAST = op("to to_copy copy", test=changes_type, name="there")
BACK = op("to to_copy copy", through(" ".join(sorted(POINTWISE)), CAST, most=6), test=changes_type, name="back")


def ping_pong(context: Context) -> Iterator[Match]:
    """F19: casts there and back, and casts of one tensor again and again; 3 % of the step or more."""
    found = [p for p in context.places(BACK) if _returns(p.named["there"], p.named["back"])]
    twice = [u for flow in context.flows for u in _again(flow) if u.row not in context.claimed]
    casts = {u.row: u for u in (*(p.named[n] for p in found for n in ("there", "back")), *twice)}
    spent_s = context.seconds(sorted(casts)) * bare_fraction(context)
    if not casts or share_of_step(context, spent_s) < CAST_SHARE:
        return
    calls = len(casts) / len(context.steps)
    example = found[0].named["there"] if found else next(iter(casts.values()))
    before, after = cast_types(example)
    names = f"{before.name if before else '?'} to {after.name if after else '?'}"
    yield Match(
        rows=tuple(row for u in casts.values() for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in casts})),
        key=names.replace(" ", "-"),
        summary=(
            f"{calls:.0f} casts per step go from {names}{' and back' if found else ' again and again'}: "
            f"{format_time(spent_s)}, {format_fraction(share_of_step(context, spent_s))} of the step"
        ),
        evidence=(
            f"{len(found) / len(context.steps):.0f} times there and back, with only pointwise operators between",
            f"{len(twice) / len(context.steps):.0f} casts of a tensor that was cast before in the step",
            f"the largest is {list(max(casts.values(), key=lambda u: u.numel).size)}",
        ),
        saving_s=as_recorded_s(context, spent_s),
        where=times(calls),
        replacement="one type throughout, or one cast kept",
        how="y = f(x)  # in x's own type; what many layers need in another type is cast once, ahead of them",
        tier=found[0].tier if found else "dataflow",
    )


def _returns(there: Unit, back: Unit) -> bool:
    """Whether the second cast undoes the first."""
    first, second = cast_types(there), cast_types(back)
    return None not in first and first == (second[1], second[0])


def _again(flow: Flow) -> list[Unit]:
    """Casts, all but the first, of a tensor that nothing wrote in the step; only where tensors were recorded."""
    if flow.tier == "order":
        return []
    seen: set[object] = set()
    found = []
    for unit, arguments in zip(flow.units, flow.arguments, strict=True):
        at = 1 if unit.name == "copy" else 0
        if unit.name not in ("to", "to_copy", "copy") or not changes_type(unit) or len(arguments) <= at:
            continue
        source = arguments[at]
        key = (source.makers, source.value, source.size, cast_types(unit)[1])
        if key in seen and unit.numel > 1:
            found.append(unit)
        seen.add(key)
    return found


RULES = (
    Rule(
        "F18", "copy-storm", "tensors are copied more than computed with", copied,
        trigger="clones, copies into another order of dimensions, or of broadcast tensors: 5 % of the step or more",
        advice="keep one layout, broadcast instead of repeating, and clone only what is changed afterwards",
        saving="the time of the copies, an upper bound: what reads them may be slower without",
        cannot_show="which of the copies an operator behind it needs",
        proof="module", needs=("shapes",),
        example=Example("x.permute(0, 2, 1).contiguous() + y", "x.permute(0, 2, 1) + y  # or y in the order of x"),
    ),
    Rule(
        "F19", "cast-ping-pong", "tensors are cast to another type and back", ping_pong,
        trigger="a cast there and back with pointwise operators between, or one tensor cast twice: 3 % of the step",
        advice="stay in one type, and keep what was cast",
        saving="the time of the casts",
        cannot_show="whether the wider type is needed for accuracy: a fused kernel has it in registers for nothing",
        proof="module", needs=("shapes",),
        example=Example("y = (x.float() * scale).to(x.dtype)", "y = x * scale.to(x.dtype)  # cast once, outside"),
    ),
)  # fmt: skip
