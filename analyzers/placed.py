"""The operators of a trace as rows: what they cost, which roof is above them, and what bounds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.analyzers.classify import Class, Machine, classify
from probe.analyzers.cost_models import Cost
from probe.analyzers.cost_models.attribution import GroupCosts, attribute
from probe.analyzers.cost_models.coverage import Coverage, coverage
from probe.analyzers.cost_models.terms import IDLE, nothing, unknown
from probe.analyzers.gpu.kernel_counters import KernelMeasurements, per_group
from probe.analyzers.gpu.kernel_evidence import MOST, KernelRuns, bus_fractions, runs_of_groups
from probe.analyzers.gpu.launch_queue import empty_queue_fractions, queue_text
from probe.analyzers.gpu.tensor_cores import float32_runs_in
from probe.analyzers.operators.modules import GroupPlaces
from probe.analyzers.operators.op_table import OpGroups, group_operators, operators
from probe.analyzers.roofline import Placement, place
from probe.analyzers.shown_rates import ShownRates, shown_rates
from probe.analyzers.timeline.device import exposed_s
from probe.machine.device import Ceilings, Device
from probe.results.analysis import Bound, Operator
from probe.trace import Steps, Trace
from probe.units import format_time

COMPILED = ("Torch-Compiled Region", "CompiledFunction", "## Call CompiledFxGraph")  # torch.compile's own marks
ASSUMED_DISPATCH_S = 2e-6  # where it was not measured: one eager operator on a desktop or server core


@dataclass(frozen=True)
class Placed:
    """The groups of operators with their costs, places and classes, one each per group."""

    groups: OpGroups
    attributed: GroupCosts
    costs: tuple[Cost, ...]
    placements: tuple[Placement, ...]
    classes: tuple[Class, ...]
    machine: Machine
    runs: dict[int, tuple[KernelRuns, ...]]  # the kernels of each group that launched any

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """What bounds each group."""
        return tuple(c.bound for c in self.classes)


def placed(
    trace: Trace, marks: Steps, ceilings: Ceilings, threads: int | None, counted: KernelMeasurements | None
) -> Placed:
    """The operators of the marked steps under the roofs. counted: what Nsight Compute measured of their kernels."""
    groups = group_operators(trace, marks)
    copied = bus_fractions(trace, groups.of_op, groups.of_kernel, groups.name)
    attributed = attribute(trace, groups.of_op, groups.name, groups.signature)
    costs = own_costs(attributed, groups.name)
    costs = costs if counted is None else _measured(costs, counted, groups)
    placements = tuple(
        _placed(groups, g, cost, trace.device, ceilings, float(copied[g])) for g, cost in enumerate(costs)
    )
    machine = _machine(trace, ceilings, threads, _shown(trace, groups, costs, placements))
    runs = runs_of_groups(trace, groups.of_kernel)
    classes = tuple(
        _classify(groups, g, cost, placements[g], machine, runs.get(g, ()), float(copied[g]))
        for g, cost in enumerate(costs)
    )
    return Placed(groups, attributed, costs, placements, classes, machine, runs)


@dataclass(frozen=True)
class Row:
    """An operator of the report, and the group it was made of."""

    group: int
    operator: Operator
    dtype: str | None  # whose arithmetic peak its products meet


def rows_of(trace: Trace, steps: Steps, table: Placed, located: GroupPlaces) -> list[Row]:
    """The groups as rows of the report, most recoverable time first; what is not known by the time it takes."""
    groups, costs, placements, classes = table.groups, table.costs, table.placements, table.classes
    queue = empty_queue_fractions(trace, groups.of_kernel, len(costs))
    exposed = exposed_s(trace, groups, steps)
    rows, on_device = [], trace.on_device
    for group, operator in operators(groups, steps, on_device):
        time_s, _ = per_call(groups, group, on_device)
        described = _described(operator, costs[group], placements[group], classes[group], time_s)
        described = _unhidden(described, float(exposed[group]))
        described = replace(
            described,
            evidence=(*described.evidence, *queue_text(float(queue[group]))),
            module=located.module([group]),
            source=located.line([group]),
        )
        rows.append(Row(group, described, placements[group].dtype))
    return sorted(rows, key=_rank)


def covered_by(trace: Trace, table: Placed) -> Coverage:
    """Which part of the time is that of operators whose costs are known."""
    groups = table.groups
    spent = (groups.device_s if trace.on_device else groups.self_s).sum(axis=1)
    return coverage(table.attributed, groups.name, groups.signature, spent, trace.on_device)


def own_costs(attributed: GroupCosts, names: Sequence[str]) -> tuple[Cost, ...]:
    """What an average call of each group does itself: a group that hands all its work on is a wrapper."""
    return tuple(
        _own(cost, attributed, group) if not _is_wrapper(cost, attributed, group) else _wrapper(names[group])
        for group, cost in enumerate(attributed.cost)
    )


def _measured(costs: tuple[Cost, ...], counted: KernelMeasurements, groups: OpGroups) -> tuple[Cost, ...]:
    """The costs with what was measured in place of what a model says, where all kernels of an operator were."""
    found = per_group(counted, groups.of_kernel, len(costs))
    calls = np.bincount(groups.of_op, minlength=len(costs))
    flops, moved = found.per_call(np.where(calls > 0, calls, found.kernels))
    return tuple(_counted(cost, float(flops[g]), float(moved[g])) for g, cost in enumerate(costs))


def _counted(cost: Cost, flops: float, moved: float) -> Cost:
    known = [name for name, value in (("FLOP", flops), ("bytes", moved)) if not np.isnan(value)]
    if not known:
        return cost
    flops_, moved_ = (cost.flops if np.isnan(flops) else flops), (cost.bytes if np.isnan(moved) else moved)
    reason = None if flops_ is not None and moved_ is not None else cost.reason
    return replace(
        cost, flops=flops_, bytes=moved_, reason=reason, assumes=f"{' and '.join(known)} measured by Nsight Compute"
    )


def _is_wrapper(cost: Cost, attributed: GroupCosts, group: int) -> bool:
    return cost.kind == "wrapper" or (cost.kind not in IDLE and attributed.delegates(group))


def _wrapper(name: str) -> Cost:
    """An operator that only calls others; what a compiled region does itself, a CPU's trace does not show."""
    return (
        unknown("runs compiled code that the trace does not show") if name.startswith(COMPILED) else nothing("wrapper")
    )


def _own(cost: Cost, attributed: GroupCosts, group: int) -> Cost:
    flops, moved = float(attributed.flops[group]), float(attributed.bytes[group])
    return replace(
        cost, flops=None if np.isnan(flops) else flops, bytes=None if np.isnan(moved) else moved,
        reason=None if not (np.isnan(flops) or np.isnan(moved)) else cost.reason,
    )  # fmt: skip


def _machine(trace: Trace, ceilings: Ceilings, threads: int | None, shown: ShownRates) -> Machine:
    launch_s = ceilings.launch_s or ASSUMED_DISPATCH_S
    return Machine(
        ceilings=ceilings,
        dispatch_s=ASSUMED_DISPATCH_S if trace.on_device else launch_s,
        on_device=trace.on_device,
        device=trace.device,
        threads=threads,
        cores=trace.device.physical_cores,
        shown=shown,
    )


def _shown(trace: Trace, groups: OpGroups, costs: tuple[Cost, ...], placements: tuple[Placement, ...]) -> ShownRates:
    """The highest rates that the device shows; a CPU's operators are held against measured ceilings."""
    if not trace.on_device:
        return ShownRates()
    return shown_rates(costs, placements, np.array([per_call(groups, g, True)[0] for g in range(len(costs))]))


def _placed(groups: OpGroups, group: int, cost: Cost, device: Device, ceilings: Ceilings, copied: float) -> Placement:
    """A group under the roofs; of the bus between host and device, which copies meet, no roof is known."""
    placement = place(cost, ceilings, tf32=_uses_tf32(groups, group, device))
    return placement if copied < MOST else replace(placement, level=None, peak_bytes_per_s=None)


def _uses_tf32(groups: OpGroups, group: int, device: Device) -> bool:
    """Whether the kernels of a group of float32 products say in their names that they run on tensor cores in TF32."""
    return any(float32_runs_in(use.name, device) == "tf32" for use in groups.kernels[group])


def per_call(groups: OpGroups, group: int, on_device: bool) -> tuple[float, float]:
    """Mean seconds of one call, and calls, over all recorded steps."""
    calls = float(groups.calls[group].sum())
    spent = groups.device_s[group].sum() if on_device else groups.self_s[group].sum()
    return (float(spent) / calls if calls else float(spent)), max(calls, 1.0)


def _classify(
    groups: OpGroups, group: int, cost: Cost, placement: Placement, machine: Machine, runs: Sequence[KernelRuns],
    copied: float,
) -> Class:  # fmt: skip
    """By the device time of a mean call, or the host time of a typical one: hosts deschedule, devices do not."""
    mean_s, _ = per_call(groups, group, machine.on_device)
    if machine.on_device and not groups.kernels[group]:  # a host operator without device work costs its dispatch
        machine = replace(machine, on_device=False)
        mean_s, _ = per_call(groups, group, on_device=False)
    time_s = mean_s if machine.on_device else float(groups.typical_s[group])
    return classify(
        cost, placement, time_s, machine, mean_s=mean_s, runs=runs, copied_fraction=copied,
        signature=groups.signature[group],
    )  # fmt: skip


def _unhidden(operator: Operator, exposed_s: float) -> Operator:
    """An operator that communicates or copies can give back what no computation hides; NaN for others."""
    if operator.recoverable_s is None or not exposed_s < operator.recoverable_s:
        return operator
    said = f"{format_time(exposed_s)} of it are not hidden behind computation"
    return replace(operator, recoverable_s=exposed_s, evidence=(*operator.evidence, said))


def _described(operator: Operator, cost: Cost, placement: Placement, klass: Class, time_s: float) -> Operator:
    """`operator` with its work per step, its rates, its distance from the roof and its class."""
    calls = operator.calls
    spent_s = time_s * calls
    roof_s = placement.roof_s
    return replace(
        operator,
        flops=cost.flops * calls if cost.flops is not None else None,
        bytes=cost.bytes * calls if cost.bytes is not None else None,
        intensity=placement.intensity,
        achieved_flops_per_s=cost.flops / time_s if cost.flops and time_s else None,
        achieved_bytes_per_s=cost.bytes / time_s if cost.bytes and time_s else None,
        roof_fraction=min(roof_s / time_s, 1.0) if roof_s and time_s else None,
        bound=klass.bound,
        limiter=klass.limiter,
        evidence=(*klass.evidence, *_beyond(roof_s, time_s), *((cost.assumes,) if cost.assumes else ())),
        recoverable_s=max(spent_s - (roof_s or 0.0) * calls, 0.0) if roof_s is not None else None,
    )


def _beyond(roof_s: float | None, time_s: float) -> tuple[str, ...]:
    """What to say of an operator that is faster than its roof: the ceiling is too low, or data stayed in a cache."""
    if roof_s is None or not time_s or roof_s <= 1.1 * time_s:
        return ()
    return (f"{roof_s / time_s:.1f}× its roof: data stayed in a nearer cache, or the ceilings are too low",)


def _rank(row: Row) -> tuple[bool, float, float, str]:
    operator = row.operator
    known = operator.recoverable_s
    return known is None, -(known or 0.0), -operator.share_fraction, operator.name
