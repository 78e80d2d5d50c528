"""F24: an optimizer that updates one parameter after the other, several small operators each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple, cast

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES, ElementType
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.repeats import as_recorded_s, elapsed_s, rows_between
from probe.analyzers.rules.matching.units import POINTWISE, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.updates.multi_tensor import foreach
from probe.analyzers.rules.updates.update_loops import by_hand, marked_runs, other_optimizers, outside_marks
from probe.sites import OptimizerSite
from probe.units import format_time

FEWEST_PARAMETERS = 4
REACH = 16  # units that the update of one parameter takes at the most
ADAM = frozenset({"addcmul", "sqrt"})  # the second moment and its root: what makes it Adam
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
    """One match per optimizer: the updates of all its parameters in all steps."""
    claimed: set[int] = set()
    for match in (*_known(context), *other_optimizers(context, frozenset(NAMES)), *by_hand(context)):
        if not claimed.intersection(match.rows):
            claimed.update(match.rows)
            yield match


def _known(context: Context) -> Iterator[Match]:
    """Adam and SGD, whose updates can be told apart: those have a site."""
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
    for name, runs in marked_runs(context):
        kind = name.lower()
        if kind == "sgd":
            yield _sgd_loop(context, runs)
        elif kind in NAMES:
            yield _adam_loop(cast(Kind, kind), runs)


def _adam_loop(kind: Kind, runs: list[list[Unit]]) -> _Loop:
    """The updates of an Adam."""
    work = ([u for u in run if u.name in POINTWISE and u.numel] for run in runs)
    return _Loop(kind, tuple(update for run in work for update in _adam_updates(run)))


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
    """An Adam written out, outside torch.optim's marks: updates end in addcdiv_ and hold the moments and a root."""
    runs = outside_marks(context)
    updates = [update for run in runs for update in _adam_updates(run)]
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
    within = (row for update in loop.updates for row in rows_between(context, update[0].row, update[-1].row))
    parameters = _parameters(loop, len(context.steps)) if loop.per_parameter else []
    count = len(parameters)
    spent_s = _elapsed(context, loop)
    floor_s = _fused_s(context, loop.kind, parameters)
    name = NAMES[loop.kind]
    whose = f"{count} parameters" if count else "its parameters"
    elements = f"{count} parameters, {sum(prod(p.size) for p in parameters):,} elements; " if count else ""
    fused = f": about {format_time(floor_s)}" if floor_s is not None else ""
    return Match(
        rows=tuple(within),
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
        saving_s=as_recorded_s(context, max(spent_s - floor_s, 0.0)) if floor_s is not None else None,
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
    spans = [(update[0].start_ns, update[-1].end_ns) for update in loop.updates]
    return elapsed_s(context, spans)


RULES = (
    Rule(
        "F24", "optimizer-loop", "the optimizer updates parameter after parameter", find,
        trigger="the same pointwise update for four parameters or more, none of it _foreach_ or _fused_",
        advice="fused=True: one pass over parameters, gradients and moments; foreach=True where there is no fused form",
        saving="the time of the loop less that of moving each array once (no fused form: less that of its operators)",
        cannot_show="options that the fused form does not support (sparse gradients, some subclasses)",
        proof="replay", effort="flag",
        example=Example("torch.optim.AdamW(parameters, foreach=False)", "torch.optim.AdamW(parameters, fused=True)"),
    ),
    Rule(
        "F25", "foreach-optimizer", "the optimizer passes over its arrays several times", foreach,
        trigger="_foreach_ operators inside the step of an optimizer that has a fused form",
        advice="fused=True: one pass over parameters, gradients and moments",
        saving="of the time of the _foreach_ operators all but the share of what a fused step reads and writes",
        cannot_show="options that the fused form does not support (sparse gradients, differentiable=True)",
        proof="flag", effort="flag", needs=("shapes",),
        example=Example("torch.optim.AdamW(parameters, foreach=True)", "torch.optim.AdamW(parameters, fused=True)"),
    ),
)  # fmt: skip
