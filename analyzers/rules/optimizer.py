"""F24: an optimizer that updates one parameter after the other, several small operators each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple, cast

import numpy as np

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES, ElementType
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.units import POINTWISE, Unit
from probe.sites import OptimizerSite
from probe.trace import Int64s, Mask, Trace
from probe.units import format_time

FEWEST_PARAMETERS = 4
REACH = 16  # units that the update of one parameter takes at the most
ADAM = frozenset({"addcmul", "sqrt"})  # the second moment and its root: what makes it Adam
MARK = re.compile(r"Optimizer\.step#(\w+)\.step")  # torch.optim names its step in the trace
NAMES = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
ARRAYS = {"adamw": 7, "adam": 7, "sgd": 5}  # read or written once by a fused update: w, g, and the moments

# torch's operators of one SGD update: maximize, weight decay, momentum (a clone at first), nesterov, and the step.
# Only the step and the momentum are in place, so that a row of updates has one reading.
SGD = re.compile(r"(?:neg )?(?:add )?(?:(?:mul_ add_ |clone )(?:add )?)?add_ ")
LONGEST_SGD = 6

Kind = Literal["adam", "adamw", "sgd"]


class _Parameter(NamedTuple):
    size: tuple[int, ...]
    element: ElementType | None  # None where its type is not known


@dataclass(frozen=True)
class _Loop:
    """All updates of one optimizer in the recorded steps: the units of each parameter, or of each step."""

    kind: Kind
    updates: tuple[tuple[Unit, ...], ...]
    per_parameter: bool = True  # False: which units make the update of one parameter cannot be told


def find(context: Context) -> Iterator[Match]:
    """One match per kind of optimizer: the updates of all its parameters in all steps."""
    marked = list(_marked_loops(context))
    for loop in marked or _adam_by_hand(context):
        if _fewest(loop) >= FEWEST_PARAMETERS * len(context.steps):
            match = _match(context, loop)
            if match is not None:
                yield match


def _fewest(loop: _Loop) -> float:
    """How many updates there are at the least."""
    return len(loop.updates) if loop.per_parameter else sum(map(len, loop.updates)) / LONGEST_SGD


def _marked_loops(context: Context) -> Iterator[_Loop]:
    """Loops inside torch.optim's own marks; a multi-tensor or fused operator in them makes them none."""
    trace = context.trace
    kinds = {i: m[1].lower() for i, name in enumerate(trace.names) if (m := MARK.fullmatch(name))}
    several = trace.named(lambda name: name.startswith(("aten::_foreach", "aten::_fused")))
    for kind in sorted(set(kinds.values()) & set(NAMES)):
        marked = _Marked.of(trace, [i for i, k in kinds.items() if k == kind])
        if marked.holds(trace.host_ops.start_ns[several[trace.host_ops.name]]).any():
            continue
        runs = [[u for u, inside in zip(run, marked.holds_units(run), strict=True) if inside] for run in context.runs]
        if kind == "sgd":
            yield _sgd_loop(context, runs)
        else:
            yield _adam_loop(cast(Kind, kind), runs)


def _adam_loop(kind: Kind, runs: list[list[Unit]]) -> _Loop:
    """The updates of an Adam."""
    work = ([u for u in run if u.name in POINTWISE and u.numel] for run in runs)
    return _Loop(kind, tuple(update for run in work for update in _adam_updates(run)))


@dataclass(frozen=True, eq=False)
class _Marked:
    """The times inside an optimizer's marks: spans by start, each end the latest so far, so that they may overlap."""

    start_ns: Int64s
    end_ns: Int64s

    @classmethod
    def of(cls, trace: Trace, names: list[int]) -> _Marked:
        """The spans of the annotations and operators with one of these names."""
        tables = (trace.annotations, trace.host_ops)
        start, end = (
            np.concatenate([getattr(t, column)[np.isin(t.name, names)] for t in tables])
            for column in ("start_ns", "end_ns")
        )
        order = np.argsort(start, kind="stable")
        return cls(start[order], np.maximum.accumulate(end[order]))

    def holds(self, at_ns: Int64s) -> Mask:
        """Which of the given times are inside a mark."""
        if not len(self.start_ns):
            return np.zeros(len(at_ns), bool)
        last = np.searchsorted(self.start_ns, at_ns, side="right") - 1
        inside: Mask = (last >= 0) & (at_ns < self.end_ns[last])
        return inside

    def holds_units(self, run: list[Unit]) -> Mask:
        """Which units begin inside a mark."""
        return self.holds(np.fromiter((u.start_ns for u in run), np.int64, len(run)))


def _sgd_loop(context: Context, runs: list[list[Unit]]) -> _Loop:
    """SGD's updates; those of a step as one where its operators are not the ones that torch.optim calls."""
    work = [[u for u in run if (u.name in POINTWISE or u.name == "clone") and u.numel] for run in runs]
    updates: list[tuple[Unit, ...]] = []
    for run in work:
        of_run = _sgd_updates(context, run)
        if of_run is None:
            return _Loop("sgd", tuple(tuple(run) for run in work if run), per_parameter=False)
        updates += of_run
    return _Loop("sgd", tuple(updates))


def _sgd_updates(context: Context, run: list[Unit]) -> list[tuple[Unit, ...]] | None:
    """The units of each parameter; None where they cannot be read as whole updates over one size each."""
    names = context.trace.names
    words = [names[context.trace.host_ops.name[u.row]].removeprefix("aten::") + " " for u in run]
    text = "".join(words)
    updates: list[tuple[Unit, ...]] = []
    at = done = 0
    while at < len(text):
        update = SGD.match(text, at)
        if update is None:
            return None
        count = update[0].count(" ")
        updates.append(tuple(run[done : done + count]))
        at, done = update.end(), done + count
    return updates if all(len({u.size for u in update}) == 1 for update in updates) else None


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


def _match(context: Context, loop: _Loop) -> Match | None:
    """The finding; None where the time of the fused form cannot be told for want of a bandwidth."""
    if context.roof_s(1) is None:
        return None
    rows = [u.row for update in loop.updates for u in update]
    parameters = _parameters(loop, len(context.steps)) if loop.per_parameter else []
    count = len(parameters)
    spent_s = _elapsed(context, loop)
    floor_s = _fused_s(context, loop.kind, parameters)
    name = NAMES[loop.kind]
    whose = f"{count} parameters" if count else "its parameters"
    elements = f"{count} parameters, {sum(prod(p.size) for p in parameters):,} elements; " if count else ""
    fused = f": about {format_time(floor_s)}" if floor_s is not None else ""
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key=f"{loop.kind}-{count}-parameters" if count else loop.kind,
        summary=(
            f"{name} updates {whose} one after the other: {round(len(rows) / len(context.steps))} operators "
            f"and {format_time(spent_s)} per step; fused, each array is read and written once{fused}"
        ),
        evidence=(
            " → ".join(u.name for u in loop.updates[-1][:REACH]),
            f"{elements}no _foreach_ or _fused_ operator",
        ),
        saving_s=max(spent_s - floor_s, 0.0) if floor_s is not None else None,
        where="the optimizer's step()",
        replacement=f"torch.optim.{name}(…, fused=True)",
        how=f"torch.optim.{name}(model.parameters(), lr=lr, fused=True)",
        site=_site(loop.kind, parameters),
    )


def _parameters(loop: _Loop, steps: int) -> list[_Parameter]:
    """Size and type of each parameter, from the updates of the last step."""
    last = loop.updates[-round(len(loop.updates) / steps) :]
    return [_parameter(max(update, key=lambda u: u.numel)) for update in last]


def _parameter(unit: Unit) -> _Parameter:
    """What a unit of an update works on: its largest argument."""
    dtypes = unit.signature.dtypes if unit.signature else ()
    at = unit.dims.index(unit.size)
    return _Parameter(unit.size, ELEMENT_TYPES.get(dtypes[at]) if at < len(dtypes) else None)


def _fused_s(context: Context, kind: Kind, parameters: list[_Parameter]) -> float | None:
    """Least time of a fused update; None where number, sizes or types of the parameters are not known."""
    sizes = [prod(p.size) * p.element.itemsize for p in parameters if p.element]
    moved_s = context.roof_s(ARRAYS[kind] * sum(sizes))
    if not sizes or len(sizes) < len(parameters) or moved_s is None:
        return None
    return moved_s + (context.machine.ceilings.launch_s or 0.0)


def _site(kind: Kind, parameters: list[_Parameter]) -> OptimizerSite | None:
    """The site; None where the parameters are not known or not of one type."""
    types = {p.element for p in parameters}
    element = types.pop() if len(types) == 1 else None
    return OptimizerSite(kind, tuple(p.size for p in parameters), element.name) if element else None


def _elapsed(context: Context, loop: _Loop) -> float:
    """Time from the first to the last unit of each update: on a CPU what Python does between them counts too."""
    if context.trace.on_device:
        return context.seconds([u.row for update in loop.updates for u in update])
    return sum(update[-1].end_ns - update[0].start_ns for update in loop.updates) / 1e9 / len(context.steps)


RULES = (
    Rule(
        "F24", "optimizer-loop", "the optimizer updates parameter after parameter", find,
        trigger="the operators of an Adam update, for four parameters or more, none of it _foreach_ or _fused_",
        advice="fused=True: one pass over parameters, gradients and both moments",
        saving="the time of the loop less that of moving seven arrays per parameter once",
        cannot_show="options that the fused form does not support (sparse gradients, some subclasses)",
        proof="replay", effort="flag",
        example=Example("torch.optim.AdamW(parameters, foreach=False)", "torch.optim.AdamW(parameters, fused=True)"),
    ),
)  # fmt: skip
