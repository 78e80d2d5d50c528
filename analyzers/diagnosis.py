"""From a trace to the answer: put the tables together into one Analysis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from probe.analyzers.critical_path.path import path_s
from probe.analyzers.gpu.kernel_counters import join
from probe.analyzers.gpu.kernel_time import kernel_time_s
from probe.analyzers.memory.resident import Resident
from probe.analyzers.memory.summary import summary as memory_summary
from probe.analyzers.memory.use import memory_use
from probe.analyzers.operators.modules import GroupPlaces, places
from probe.analyzers.operators.op_table import OpGroups
from probe.analyzers.operators.steps import AHEAD, cut_by_device, recorded_steps, step_times
from probe.analyzers.parts import PartTable, partition
from probe.analyzers.placed import Row, covered_by, per_call, placed, rows_of
from probe.analyzers.plan_of_fixes import plan
from probe.analyzers.precision import Work, precision_gains
from probe.analyzers.provenance import caveats, missing_parts, quality, recorded_parts
from probe.analyzers.rules.catalogue import LEAST_FRACTION, Found, findings, unasked
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import Recorded
from probe.analyzers.start_up import start_up
from probe.analyzers.timeline.profiler_time import recording_shares, without_profiler
from probe.analyzers.utilisation import utilisation
from probe.analyzers.what_if import WhatIf
from probe.machine.device import Ceilings
from probe.readers.module_graph import ModuleGraph
from probe.readers.ncu import KernelCounters
from probe.results.analysis import PARTS, Analysis, Bound, PrecisionGain, Source, StepTimes
from probe.results.findings import Finding
from probe.results.multirank import RanksAnalysis
from probe.trace import Trace


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
    counted = join(trace, beside.counters) if beside.counters else None
    table = placed(trace, marks, ceilings, beside.threads, counted)
    groups, machine = table.groups, table.machine
    parts = partition(trace, steps, groups, table.bounds, machine.dispatch_s)
    recorded = {part: float(parts.of(part).mean()) for part in PARTS}
    where = places(trace)
    located = GroupPlaces(where, groups.rows_of)
    rows = rows_of(trace, steps, table, located)
    times = beside.timed or step_times(steps)
    shares = recording_shares(trace, groups, table.bounds, machine.dispatch_s)
    bare, correction = without_profiler(recorded, times.bare_mean_s, shares, _calls_per_step(groups))
    step_s = sum(bare.values())
    time_s: dict[str, float | None] = {"step": step_s, **bare}
    memory = memory_use(trace, marks, beside.resident)
    what_if = WhatIf(trace, marks)
    context = Context(
        trace, marks, groups, table.costs, table.bounds, machine, step_s, bare, beside.data_wait_s,
        recorded=beside.recorded, memory=memory, what_if=what_if, kernel_runs=table.runs, compared=beside.compared,
        graph=beside.graph,
    )  # fmt: skip
    found = findings(context, {row.group: index for index, row in enumerate(rows)}, preview=beside.preview)
    found = tuple(replace(f, finding=_located(f.finding, located, rows)) for f in found)
    covered = covered_by(trace, table)
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
        kernel_time_s=kernel_time_s(groups, table.costs, trace.device),
        precision=_precision(context, rows, ceilings),
    )
    return Diagnosis(analysis, found)


def _precision(context: Context, rows: Sequence[Row], ceilings: Ceilings) -> tuple[PrecisionGain, ...]:
    """What narrower element types would gain, as far as the step gets shorter by it, most first."""
    groups, on_device = context.groups, context.trace.on_device
    work = []
    for index, row in enumerate(rows):
        once_s, _ = per_call(groups, row.group, on_device)
        tf32 = row.dtype == "tf32" and context.costs[row.group].dtype == "float32"
        work.append(Work(context.costs[row.group], once_s, row.operator.calls, index, "tf32" if tf32 else None))
    shorter: dict[tuple[tuple[int, ...], float], float] = {}  # bfloat16 and float16 mostly gain the same
    gains = []
    for gain in precision_gains(work, ceilings):
        if not context.may_be_worth(gain.saving_s, LEAST_FRACTION):
            continue
        asked = gain.ops, gain.saving_s
        if asked not in shorter:
            members = np.isin(groups.of_op, [rows[index].group for index in gain.ops]) & (groups.step_of_op >= 0)
            shorter[asked] = context.shortens_s(gain.saving_s, tuple(np.flatnonzero(members).tolist())) or 0.0
        gains.append(replace(gain, saving_s=shorter[asked]))
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


def _located(finding: Finding, located: GroupPlaces, rows: list[Row]) -> Finding:
    """A finding with the module and the line of its operators, where its rule did not name a module."""
    groups = [rows[index].group for index in finding.ops]
    line = located.line(groups)
    said = (f"called from {line}",) if line else ()
    return replace(finding, module=finding.module or located.module(groups), evidence=(*finding.evidence, *said))


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
