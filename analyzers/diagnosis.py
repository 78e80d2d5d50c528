"""From a trace to the answer: put the tables together into one Analysis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from probe.analysis import PARTS, Analysis, Bound, Operator, PrecisionGain, Source, StepTimes
from probe.analyzers.classify import Class, Machine, classify
from probe.analyzers.cost_models import Cost
from probe.analyzers.cost_models.attribution import GroupCosts, attribute
from probe.analyzers.cost_models.coverage import Coverage, coverage
from probe.analyzers.cost_models.terms import IDLE, nothing, unknown
from probe.analyzers.critical_path.path import path_s
from probe.analyzers.kernel_counters import KernelMeasurements, join, per_group
from probe.analyzers.kernel_evidence import MOST, KernelRuns, bus_fractions, runs_of_groups
from probe.analyzers.kernel_time import kernel_time_s
from probe.analyzers.launch_queue import empty_queue_fractions, queue_text
from probe.analyzers.memory.resident import Resident
from probe.analyzers.memory.summary import summary as memory_summary
from probe.analyzers.memory.use import memory_use
from probe.analyzers.modules import GroupPlaces, places
from probe.analyzers.op_table import OpGroups, group_operators, operators
from probe.analyzers.parts import PartTable, partition
from probe.analyzers.plan_of_fixes import plan
from probe.analyzers.precision import Work, precision_gains
from probe.analyzers.provenance import caveats, missing_parts, quality, recorded_parts
from probe.analyzers.roofline import Placement, place
from probe.analyzers.rules.catalogue import LEAST_FRACTION, Found, findings, unasked
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import Recorded
from probe.analyzers.shown_rates import ShownRates, shown_rates
from probe.analyzers.start_up import start_up
from probe.analyzers.steps import AHEAD, cut_by_device, recorded_steps, step_times
from probe.analyzers.tensor_cores import float32_runs_in
from probe.analyzers.timeline.device import exposed_s
from probe.analyzers.timeline.profiler_time import recording_shares, without_profiler
from probe.analyzers.utilisation import utilisation
from probe.analyzers.what_if import WhatIf
from probe.device import Ceilings, Device
from probe.findings import Finding
from probe.multirank import RanksAnalysis
from probe.readers.module_graph import ModuleGraph
from probe.readers.ncu import KernelCounters
from probe.trace import Steps, Trace
from probe.units import format_time

COMPILED = ("Torch-Compiled Region", "CompiledFunction", "## Call CompiledFxGraph")  # torch.compile's own marks
ASSUMED_DISPATCH_S = 2e-6  # where it was not measured: one eager operator on a desktop or server core


@dataclass(frozen=True)
class Diagnosis:
    """The analysis, and with each finding what its replacement can be run on."""

    analysis: Analysis
    found: tuple[Found, ...]


@dataclass(frozen=True)
class Beside:
    """What is known beside the trace.

    timed: step times measured outside it, with and without the profiler. threads: how many torch ran on.
    data_wait_s: mean wait for data per step, where the session measured it. datasheet: the device's published peaks,
    for utilisation. counters: kernel launches measured by Nsight Compute. warnings: what the readers had to say.
    recorded: who made the arguments of the operators, for the runs of which that was recorded. graph: of the model's
    forward pass, where it was captured. resident: the memory
    that was there before, by device. preview: with the rules that are not on by default. compared: the ranks of the
    job, where several were read.
    """

    timed: StepTimes | None = None
    threads: int | None = None
    data_wait_s: float | None = None
    datasheet: Ceilings | None = None
    counters: tuple[KernelCounters, ...] = ()
    warnings: tuple[str, ...] = ()
    recorded: Recorded = field(default_factory=dict)
    graph: ModuleGraph | None = None
    resident: Mapping[int, Resident] = field(default_factory=dict)
    preview: bool = False
    compared: RanksAnalysis | None = None


def diagnose(trace: Trace, source: Source, ceilings: Ceilings, beside: Beside | None = None) -> Diagnosis:
    """Everything probe can say of `trace`."""
    beside = beside or Beside()
    marks = recorded_steps(trace)
    steps = cut_by_device(trace, marks)
    groups = group_operators(trace, marks)
    copied = bus_fractions(trace, groups.of_op, groups.of_kernel, groups.name)
    attributed = attribute(trace, groups.of_op, groups.name, groups.signature)
    counted = join(trace, beside.counters) if beside.counters else None
    costs = own_costs(attributed, groups.name)
    costs = costs if counted is None else _measured(costs, counted, groups)
    placements = tuple(
        _placed(groups, g, cost, trace.device, ceilings, float(copied[g])) for g, cost in enumerate(costs)
    )
    machine = _machine(trace, ceilings, beside.threads, _shown(trace, groups, costs, placements))
    runs = runs_of_groups(trace, groups.of_kernel)
    classes = tuple(
        _classify(groups, g, cost, placements[g], machine, runs.get(g, ()), float(copied[g]))
        for g, cost in enumerate(costs)
    )
    bounds = tuple(c.bound for c in classes)
    parts = partition(trace, steps, groups, bounds, machine.dispatch_s)
    recorded = {part: float(parts.of(part).mean()) for part in PARTS}
    where = places(trace)
    located = GroupPlaces(where, groups.of_op, len(groups.name))
    rows = _ranked(_operators(trace, steps, groups, costs, placements, classes, located))
    times = beside.timed or step_times(steps)
    shares = recording_shares(trace, groups, bounds, machine.dispatch_s)
    bare, correction = without_profiler(recorded, times.bare_mean_s, shares, _calls_per_step(groups))
    step_s = sum(bare.values())
    time_s: dict[str, float | None] = {"step": step_s, **bare}
    memory = memory_use(trace, marks, beside.resident)
    what_if = WhatIf(trace, marks)
    context = Context(
        trace, marks, groups, costs, bounds, machine, step_s, bare, beside.data_wait_s, recorded=beside.recorded,
        memory=memory, what_if=what_if, kernel_runs=runs, compared=beside.compared,
        graph=beside.graph,
    )  # fmt: skip
    found = findings(context, {row.group: index for index, row in enumerate(rows)}, preview=beside.preview)
    found = tuple(replace(f, finding=_located(f.finding, located, rows)) for f in found)
    covered = _coverage(trace, groups, attributed)
    said = (*caveats(trace, covered, ceilings, times), *(counted.warnings if counted else ()))
    used, unused = utilisation(
        trace, steps, [(r.operator.flops, r.operator.bytes, r.dtype) for r in rows], step_s, beside.datasheet,
        covered.known_fraction,
    )  # fmt: skip
    said += unused
    said += tuple(unasked(context, preview=beside.preview))
    said += () if steps is marks else (AHEAD,)
    said += tuple(start_up(trace, marks))
    analysis = Analysis(
        source=source,
        quality=quality(trace, groups.excluded_work, covered),
        ceilings=ceilings,
        steps=times,
        bound=_bound(time_s),
        time_s=time_s,
        time_interval_s=_intervals(parts, recorded, bare),
        utilisation=used,
        ops=tuple(replace(row.operator, index=index) for index, row in enumerate(rows)),
        findings=tuple(f.finding for f in found),
        ranks=(),
        memory=memory_summary(trace, marks, memory, where.module_of),
        warnings=tuple(w for w in (*beside.warnings, *trace.warnings, *said, correction) if w),
        recorded=tuple(recorded_parts(trace)),
        not_recorded=tuple(missing_parts(trace)),
        idle_s=parts.idle_s(bare),
        critical_path_s=path_s(trace, what_if.graph, step_s),
        fixes=plan([f.finding for f in found], step_s, _together(found, context) if trace.on_device else None),
        kernel_time_s=kernel_time_s(groups, costs, trace.device),
        precision=_precision(context, rows, ceilings),
    )
    return Diagnosis(analysis, found)


def _precision(context: Context, rows: Sequence[_Row], ceilings: Ceilings) -> tuple[PrecisionGain, ...]:
    """What narrower element types would gain, as far as the step gets shorter by it, most first."""
    groups, on_device = context.groups, context.trace.on_device
    work = []
    for index, row in enumerate(rows):
        once_s, _ = _per_call(groups, row.group, on_device)
        tf32 = row.dtype == "tf32" and context.costs[row.group].dtype == "float32"
        work.append(Work(context.costs[row.group], once_s, row.operator.calls, index, "tf32" if tf32 else None))
    gains = []
    for gain in precision_gains(work, ceilings):
        members = np.isin(groups.of_op, [rows[index].group for index in gain.ops]) & (groups.step_of_op >= 0)
        saving_s = context.shortens_s(gain.saving_s, tuple(np.flatnonzero(members).tolist()))
        gains.append(replace(gain, saving_s=saving_s or 0.0))
    worth = (gain for gain in gains if gain.saving_s >= LEAST_FRACTION * context.step_s)
    return tuple(sorted(worth, key=lambda gain: -gain.saving_s))


def _together(found: Sequence[Found], context: Context) -> Callable[[Sequence[Finding]], float]:
    """Seconds that some findings save together: those of operators by replaying the step, waits as they are."""
    of = {id(f.finding): f for f in found}

    def saved(findings: Sequence[Finding]) -> float:
        kept: dict[int, float] = {}
        waits = 0.0
        for finding in findings:
            rows, saving_s = of[id(finding)].rows, finding.saving_s or 0.0
            spent_s = context.seconds(list(rows))
            if spent_s > 0:
                kept |= dict.fromkeys(rows, 1.0 - min(saving_s / spent_s, 1.0))
            else:
                waits += saving_s
        return waits + (context.what_if.saving_s(kept) if context.what_if is not None else 0.0)

    return saved


@dataclass(frozen=True)
class _Row:
    """An operator of the report, and the group it was made of."""

    group: int
    operator: Operator
    dtype: str | None  # whose arithmetic peak its products meet


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
    return shown_rates(costs, placements, np.array([_per_call(groups, g, True)[0] for g in range(len(costs))]))


def _placed(groups: OpGroups, group: int, cost: Cost, device: Device, ceilings: Ceilings, copied: float) -> Placement:
    """A group under the roofs; of the bus between host and device, which copies meet, no roof is known."""
    placement = place(cost, ceilings, tf32=_uses_tf32(groups, group, device))
    return placement if copied < MOST else replace(placement, level=None, peak_bytes_per_s=None)


def _uses_tf32(groups: OpGroups, group: int, device: Device) -> bool:
    """Whether the kernels of a group of float32 products say in their names that they run on tensor cores in TF32."""
    return any(float32_runs_in(use.name, device) == "tf32" for use in groups.kernels[group])


def _per_call(groups: OpGroups, group: int, on_device: bool) -> tuple[float, float]:
    """Mean seconds of one call, and calls, over all recorded steps."""
    calls = float(groups.calls[group].sum())
    spent = groups.device_s[group].sum() if on_device else groups.self_s[group].sum()
    return (float(spent) / calls if calls else float(spent)), max(calls, 1.0)


def _classify(
    groups: OpGroups, group: int, cost: Cost, placement: Placement, machine: Machine, runs: Sequence[KernelRuns],
    copied: float,
) -> Class:  # fmt: skip
    """By the device time of a mean call, or the host time of a typical one: hosts deschedule, devices do not."""
    mean_s, _ = _per_call(groups, group, machine.on_device)
    if machine.on_device and not groups.kernels[group]:  # a host operator without device work costs its dispatch
        machine = replace(machine, on_device=False)
        mean_s, _ = _per_call(groups, group, on_device=False)
    time_s = mean_s if machine.on_device else float(groups.typical_s[group])
    return classify(
        cost, placement, time_s, machine, mean_s=mean_s, runs=runs, copied_fraction=copied,
        signature=groups.signature[group],
    )  # fmt: skip


def _operators(
    trace: Trace, steps: Steps, groups: OpGroups, costs: tuple[Cost, ...], placements: tuple[Placement, ...],
    classes: tuple[Class, ...], located: GroupPlaces,
) -> list[_Row]:  # fmt: skip
    """The groups as rows of the report, with what they cost and what bounds them."""
    queue = empty_queue_fractions(trace, groups.of_kernel, len(costs))
    exposed = exposed_s(trace, groups, steps)
    rows = []
    for group, operator in operators(groups, steps, trace.on_device):
        time_s, _ = _per_call(groups, group, trace.on_device)
        described = _described(operator, costs[group], placements[group], classes[group], time_s)
        described = _unhidden(described, float(exposed[group]))
        described = replace(described, evidence=(*described.evidence, *queue_text(float(queue[group]))))
        described = replace(described, module=located.module([group]), source=located.line([group]))
        rows.append(_Row(group, described, placements[group].dtype))
    return rows


def _located(finding: Finding, located: GroupPlaces, rows: list[_Row]) -> Finding:
    """A finding with the module and the line of its operators, where its rule did not name a module."""
    groups = [rows[index].group for index in finding.ops]
    line = located.line(groups)
    said = (f"called from {line}",) if line else ()
    return replace(finding, module=finding.module or located.module(groups), evidence=(*finding.evidence, *said))


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


def _ranked(rows: list[_Row]) -> list[_Row]:
    """Most recoverable time first; what is not known stands behind by the time it takes."""
    return sorted(rows, key=_rank)


def _rank(row: _Row) -> tuple[bool, float, float, str]:
    operator = row.operator
    known = operator.recoverable_s
    return known is None, -(known or 0.0), -operator.share_fraction, operator.name


def _calls_per_step(groups: OpGroups) -> float:
    return float(groups.calls.sum(axis=0).mean())


def _intervals(
    parts: PartTable, recorded: dict[str, float], corrected: dict[str, float]
) -> dict[str, tuple[float, float] | None]:
    """The range of each part over steps, corrected as its mean was."""
    intervals: dict[str, tuple[float, float] | None] = {}
    for part in PARTS:
        seconds = parts.of(part) * (corrected[part] / recorded[part] if recorded[part] else 0.0)
        intervals[part] = (float(seconds.min()), float(seconds.max()))
    whole = parts.seconds.sum(axis=0)
    whole = whole * (sum(corrected.values()) / float(whole.mean()) if whole.mean() else 0.0)
    return {"step": (float(whole.min()), float(whole.max())), **intervals}


def _bound(time_s: dict[str, float | None]) -> Bound:
    """The largest part of the step; "unknown" where idle and unknown together are the largest."""
    named: tuple[Bound, ...] = ("compute", "memory", "latency", "overhead", "communication", "host")
    largest = max(named, key=lambda part: time_s[part] or 0.0)
    nothing = (time_s["idle"] or 0.0) + (time_s["unknown"] or 0.0)
    return largest if (time_s[largest] or 0.0) > nothing else "unknown"


def _coverage(trace: Trace, groups: OpGroups, attributed: GroupCosts) -> Coverage:
    spent = (groups.device_s if trace.on_device else groups.self_s).sum(axis=1)
    return coverage(attributed, groups.name, groups.signature, spent, trace.on_device)
