"""F24: an optimizer that updates one parameter after the other, several small operators each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, cast

import numpy as np

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.units import POINTWISE, Unit
from probe.sites import OptimizerSite
from probe.units import format_time

FEWEST_PARAMETERS = 4
REACH = 16  # units that the update of one parameter takes at the most
ADAM = frozenset({"addcmul", "sqrt"})  # the second moment and its root: what makes it Adam
MARK = re.compile(r"Optimizer\.step#(\w+)\.step")  # torch.optim names its step in the trace
NAMES = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
ARRAYS = {"adamw": 7, "adam": 7, "sgd": 5}  # read or written once by a fused update: w, g, and the moments

Kind = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True)
class _Loop:
    """All updates of one optimizer in the recorded steps: the units of each parameter."""

    kind: Kind
    updates: tuple[tuple[Unit, ...], ...]


def find(context: Context) -> Iterator[Match]:
    """One match per kind of optimizer: the updates of all its parameters in all steps."""
    marked = list(_marked_loops(context))
    for loop in marked or _adam_by_hand(context):
        if len(loop.updates) >= FEWEST_PARAMETERS * len(context.steps):
            yield _match(context, loop)


def _marked_loops(context: Context) -> Iterator[_Loop]:
    """Loops inside torch.optim's own marks; a multi-tensor or fused operator in them makes them none."""
    trace = context.trace
    kinds = {i: m[1].lower() for i, name in enumerate(trace.names) if (m := MARK.fullmatch(name))}
    marks, ops = trace.annotations, trace.host_ops
    spans = [
        (int(s), int(e), kinds[n])
        for n, s, e in zip(marks.name, marks.start_ns, marks.end_ns, strict=True)
        if n in kinds
    ]
    spans += [
        (int(s), int(e), kinds[n]) for n, s, e in zip(ops.name, ops.start_ns, ops.end_ns, strict=True) if n in kinds
    ]
    several = np.array([name.startswith(("aten::_foreach", "aten::_fused")) for name in trace.names], bool)
    for kind in sorted({k for *_, k in spans} & set(NAMES)):
        own = [(start, end) for start, end, k in spans if k == kind]
        if any((several[ops.name] & (ops.start_ns >= start) & (ops.start_ns < end)).any() for start, end in own):
            continue
        units = [u for run in context.runs for u in run if any(s <= u.start_ns < e for s, e in own)]
        work = [u for u in units if u.name in POINTWISE and u.numel]
        yield _Loop(cast(Kind, kind), tuple(_by_parameter(work) if kind == "sgd" else _adam_updates(work)))


def _by_parameter(units: list[Unit]) -> Iterator[tuple[Unit, ...]]:
    """Cut a run of SGD updates where the first operator of the update comes again, or another size."""
    update: list[Unit] = []
    for unit in units:
        if update and (unit.name == update[0].name or unit.size != update[0].size):
            yield tuple(update)
            update = []
        update.append(unit)
    if update:
        yield tuple(update)


def _adam_by_hand(context: Context) -> Iterator[_Loop]:
    """An Adam written out: updates end in addcdiv_ and hold the second moment and its root."""
    updates = [update for run in context.runs for update in _adam_updates(run)]
    if updates:
        decays = any(u.name == "mul" for u in updates[-1][:2])
        yield _Loop("adamw" if decays else "adam", tuple(updates))


def _adam_updates(run: list[Unit]) -> Iterator[tuple[Unit, ...]]:
    begin = 0
    for at, unit in enumerate(run):
        if unit.name != "addcdiv":
            continue
        reach = run[max(begin, at - REACH) : at + 1]
        update = tuple(u for u in reach if u.name in POINTWISE and u.size in (unit.size, ()))
        begin = at + 1
        if {u.name for u in update} >= ADAM:
            yield update


def _match(context: Context, loop: _Loop) -> Match:
    rows = [u.row for update in loop.updates for u in update]
    count = round(len(loop.updates) / len(context.steps))
    sizes = tuple(max((u.size for u in update), key=prod) for update in loop.updates[-count:])
    elements = sum(prod(size) for size in sizes)
    spent_s = _elapsed(context, loop)
    floor_s = context.roof_s(ARRAYS[loop.kind] * 4 * elements) + (context.machine.ceilings.launch_s or 0.0)
    name = NAMES[loop.kind]
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key=f"{loop.kind}-{count}-parameters",
        summary=(
            f"{name} updates {count} parameters one after the other: {round(len(rows) / len(context.steps))} operators "
            f"and {format_time(spent_s)} per step; fused, each array is read and written once: about "
            f"{format_time(floor_s)}"
        ),
        evidence=(
            " → ".join(u.name for u in loop.updates[-1]),
            f"{count} parameters, {elements:,} elements; no _foreach_ or _fused_ operator",
        ),
        saving_s=max(spent_s - floor_s, 0.0),
        where="the optimizer's step()",
        replacement=f"torch.optim.{name}(…, fused=True)",
        how=f"torch.optim.{name}(model.parameters(), lr=lr, fused=True)",
        site=OptimizerSite(loop.kind, sizes, "float32"),
    )


def _elapsed(context: Context, loop: _Loop) -> float:
    """Time from the first to the last unit of each update: on a CPU what Python does between them counts too."""
    if context.trace.on_device:
        return context.seconds([u.row for update in loop.updates for u in update])
    return sum(update[-1].end_ns - update[0].start_ns for update in loop.updates) / 1e9 / len(context.steps)
