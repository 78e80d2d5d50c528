"""F27, M06: a second copy of the weights, averaged or cast parameter after parameter in each step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.flow import WEIGHT_OF, Flow
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.matching.repeats import as_recorded_s, rows_between
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.updates.parameter_loops import (
    Loop,
    cast_types,
    changes_type,
    counted,
    groups_of,
    parameter_loops,
    rows_of,
    time_and_floor_s,
)
from probe.units import format_bytes, format_time

FEWEST = 8  # parameters
WIDER = ("kept in the wider type, the weights take more memory: the inputs in theirs are the other way",)
LEAST_ELEMENTS = 1 << 14  # of a weight whose cast is worth a word


def averaged(context: Context) -> Iterator[Match]:
    """F27: a moving average of the weights, updated one by one."""
    loops = [loop for loop in parameter_loops(context, "average") if len(loop.passes) >= FEWEST]
    if not loops:
        return
    words = loops[0].words.split()
    spent_s, floor_s = time_and_floor_s(context, loops, arrays=3, fewer=1 / len(words))
    count, operators = counted(context, loops)
    yield Match(
        rows=rows_of(loops),
        ops=groups_of(context, loops),
        key=f"{count}-parameters",
        summary=(
            f"the moving average of {count} tensors is updated one after the other: {operators} operators and "
            f"{format_time(spent_s)} per step; one lerp over lists takes about {format_time(floor_s)}"
        ),
        evidence=(f"{' → '.join(words)}, for {count} tensors",),
        saving_s=as_recorded_s(context, max(spent_s - floor_s, 0.0)),
        where="the update of the averaged weights",
        replacement="torch._foreach_lerp_",
        how="torch._foreach_lerp_(averages, parameters, 1 - decay)  # or get_ema_multi_avg_fn(decay)",
        tier=loops[0].tier,
    )


def cast(context: Context) -> Iterator[Match]:
    """M06: weights or gradients copied into another element type one by one, in each step."""
    yield from _used_cast(context)
    loops = [loop for loop in parameter_loops(context, "cast") if len(loop.passes) >= FEWEST]
    if not loops:
        return
    spent_s, _ = time_and_floor_s(context, loops, arrays=2)
    count, operators = counted(context, loops)
    copied = sum(_written(loop) for loop in loops) // len(context.steps)
    yield Match(
        rows=rows_of(loops),
        ops=groups_of(context, loops),
        key=f"{count}-tensors",
        summary=(
            f"{operators} copies per step carry weights or gradients from one element type to another, "
            f"{format_bytes(copied)} in {format_time(spent_s)}"
        ),
        evidence=tuple(dict.fromkeys(_told(loop) for loop in loops))[:4],
        saving_s=as_recorded_s(context, spent_s),
        saving_bytes=copied,
        where="the casts of the parameters",
        replacement="weights kept in float32 under torch.autocast, or an optimizer that works on their own type",
        how="with torch.autocast(device_type, torch.bfloat16): loss = model(batch)  # float32 weights, no master copy",
        tier=loops[0].tier,
    )


def _used_cast(context: Context) -> Iterator[Match]:
    """Weights that no step changes, cast before each product that reads them."""
    flows = context.flows
    units = [f.units[i] for f in flows for i in f.shared("cast weights", partial(_cast_weights, f))]
    units = [unit for unit in units if unit.row not in context.claimed]
    if not units or context.under_engine[context.unit_rows].any():
        return
    before, after = cast_types(units[0])
    rows = [unit.row for unit in units]
    spent_s, calls = usual_s(context, rows), len(units) / len(context.steps)
    copied = sum(unit.numel * element.itemsize for unit in units if (element := cast_types(unit)[1]))
    yield Match(
        rows=tuple(row for unit in units for row in rows_between(context, unit.row, unit.row)),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="used",
        summary=(
            f"{calls:.0f} casts per step make copies of weights for one product each, "
            f"{format_bytes(copied // len(context.steps))} in {format_time(spent_s)}, and no step changes the weights"
        ),
        evidence=(
            f"{before.name if before else '?'} → {after.name if after else '?'}, {times(calls)}",
            *(WIDER[: before is not None and after is not None and after.itemsize > before.itemsize]),
        ),
        saving_s=spent_s,
        where=times(calls),
        replacement="weights kept in the type of the products",
        how=f"model.to(torch.{after.name if after else 'float32'})  # once, before the first step",
        tier="dataflow",
    )


def _cast_weights(flow: Flow) -> tuple[int, ...]:
    """Casts of tensors from outside the step that only products read, as their second factor."""
    found = []
    for index, unit in enumerate(flow.units):
        if unit.name not in ("to", "to_copy") or unit.numel < LEAST_ELEMENTS or not changes_type(unit):
            continue
        before = cast_types(unit)[0]
        if before is None or not before.name.endswith(("float16", "float32", "float64")):  # not of quantised ones
            continue
        readers = flow.readers(index)
        if flow.tier_of([index]) == "order" or flow.arguments[index][0].makers or not readers:
            continue
        if all(flow.units[r].name in WEIGHT_OF and index in _factor(flow, r) for r in readers):
            found.append(index)
    return tuple(found)


def _factor(flow: Flow, product: int) -> tuple[int, ...]:
    """What may have made the second factor of a product."""
    at, arguments = WEIGHT_OF[flow.units[product].name], flow.arguments[product]
    return arguments[at].makers if at < len(arguments) else ()


def _written(loop: Loop) -> int:
    """Bytes that the casts of a loop write."""
    sizes = ((u.numel, cast_types(u)[1]) for u in loop.units if u.numel > 1)
    return sum(numel * element.itemsize for numel, element in sizes if element)


def _told(loop: Loop) -> str:
    before, after = cast_types(loop.units[0])
    return f"{before.name if before else '?'} → {after.name if after else '?'}, for {len(loop.passes)} tensors"


RULES = (
    Rule(
        "F27", "average-loop", "averaged weights are updated one after the other", averaged,
        trigger="a lerp, or its spelling with mul and add, the same for each of eight tensors or more",
        advice="one lerp over lists of tensors",
        saving="on a CPU the time between the operators and of all but one of them, on a device all but one pass",
        cannot_show="whether the averages may be updated less often",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "for e, p in zip(ema.parameters(), model.parameters()):\n    e.mul_(d).add_(p, alpha=1 - d)",
            "torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - d)",
        ),
    ),
    Rule(
        "M06", "weight-casts", "weights are cast to another type in each step", cast,
        trigger="casts in a row, of eight tensors or more; or of weights that no step changes, each for one product",
        advice="keep one copy: float32 weights under autocast, or low-precision weights and an optimizer made for them",
        saving="the time of the casts",
        cannot_show="whether the accuracy of the training rests on the second copy",
        proof="module", effort="design", about="memory", needs=("shapes",),
        example=Example(
            "for p, m in zip(model.parameters(), masters):\n    m.grad = p.grad.float()",
            "with torch.autocast(\"cuda\", torch.bfloat16):\n    loss = model(x)  # the weights stay float32",
        ),
    ),
)  # fmt: skip
