"""When do the threads that run the steps do nothing that a trace shows, and what stands before and after?

Such a pause is Python, a system call, or waiting. A single one may be the machine's doing, so a pause is known by the
operators around it and counts with what it takes in the typical step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from probe.analyzers.classify import DISPATCHES
from probe.analyzers.operators.steps import within
from probe.analyzers.rules.context import Context
from probe.analyzers.timeline.device import device_busy
from probe.analyzers.timeline.pieces import exclusive
from probe.analyzers.timeline.threads import exchange_intervals, feeding_threads, loader_intervals, main_thread, workers
from probe.intervals import EMPTY, Intervals, difference, union
from probe.trace import Int32s, Int64s, Steps, Table, Trace

EDGE_NS = 100_000  # what recording takes at either end of a step
FEW = 3  # up to so many steps, a pause counts with the least that it takes in any of them; else with the median


@dataclass(frozen=True, eq=False)
class Gaps(Table):
    """Pauses in order of time, each inside one step."""

    start_ns: Int64s
    end_ns: Int64s
    before: Int32s  # row of the operator that ended last before it, -1 where the step began with the pause
    after: Int32s  # row of the operator that began next, -1 where the step ended with it
    step: Int32s

    @property
    def duration_ns(self) -> Int64s:
        """How long each took, [n]."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, eq=False)
class HostTime:
    """The time of the steps in which neither the device nor an operator works."""

    trace: Trace
    steps: Steps
    step_s: float  # the bare step
    host_s: float  # what its parts say of this time
    gaps: Gaps  # longer than dispatching explains, without the waits for data
    loading: Intervals  # waits for data, inside the steps

    @cached_property
    def sites(self) -> Int64s:
        """A number for each pause, the same for pauses between operators of the same names, [gaps]."""
        names = np.append(self.trace.host_ops.name, -1).astype(np.int64)  # row -1 finds the -1
        width = len(self.trace.names) + 1
        keys = (names[self.gaps.before] + 1) * width + names[self.gaps.after] + 1
        return np.asarray(np.unique(keys, return_inverse=True)[1], np.int64)

    def typical_s(self, ns: Int64s) -> float:
        """Seconds per step of what is counted of each pause, [gaps]; each site counts with its typical step."""
        return sum(seconds for _, seconds in self.by_site(ns))

    def by_site(self, ns: Int64s) -> list[tuple[int, float]]:
        """(row of its first pause, typical seconds per step) of each site, the longest first."""
        steps, chosen = len(self.steps), np.flatnonzero(ns > 0)
        if not len(chosen):
            return []
        table = np.zeros((int(self.sites.max()) + 1, steps))
        np.add.at(table, (self.sites[chosen], self.gaps.step[chosen]), ns[chosen] / 1e9)
        typical = table.min(axis=1) if steps <= FEW else np.median(table, axis=1)
        sites, first = np.unique(self.sites[chosen], return_index=True)
        found = [(int(chosen[i]), float(typical[site])) for site, i in zip(sites, first, strict=True) if typical[site]]
        return sorted(found, key=lambda pair: -pair[1])

    def bare_s(self, seconds: float) -> float:
        """What they are in the bare step: their share of its host time, or on a CPU of the shortest recorded step.

        Recording stretches the other parts, and a busy machine adds pauses of its own: the larger share is the truer.
        """
        total = (self.gaps.duration_ns.sum() + self.loading.length_ns) / 1e9 / len(self.steps)
        of_host = self.host_s * min(seconds / total, 1.0) if total > 0 else 0.0
        if self.trace.on_device:
            return float(of_host)
        of_step = seconds / max(float(self.steps.duration_ns.min()) / 1e9, 1e-9) * self.step_s
        return float(max(of_host, min(of_step, self.host_s)))

    def between(self, row: int) -> str:
        """Where a pause lies, in words."""
        ops, names = self.trace.host_ops, self.trace.names
        before, after = int(self.gaps.before[row]), int(self.gaps.after[row])
        if before < 0 and after < 0:
            return "the whole step"
        if before < 0:
            return f"before the step's first operator, {names[ops.name[after]]}"
        if after < 0:
            return f"after the step's last operator, {names[ops.name[before]]}"
        return f"between {names[ops.name[before]]} and {names[ops.name[after]]}"


def host_time(context: Context) -> HostTime:
    """The pauses of the steps; computed once for each context, as several rules ask."""
    if context not in _known:
        _known[context] = HostTime(
            context.trace, context.steps, context.step_s, context.parts["host"], _gaps(context), _loading(context)
        )
    return _known[context]


_known: WeakKeyDictionary[Context, HostTime] = WeakKeyDictionary()  # nothing in a HostTime holds its context


def _loading(context: Context) -> Intervals:
    """Waits for data inside the steps, as torch marks them, while the device does nothing."""
    waits = within(loader_intervals(context.trace), context.steps)
    return difference(waits, _device(context))


def _device(context: Context) -> Intervals:
    return device_busy(context.trace) if context.trace.on_device else EMPTY


def _gaps(context: Context) -> Gaps:
    """Time of the steps without device work, runtime calls, waits for data or other ranks, and operators."""
    steps = context.steps
    first = Intervals(steps.start_ns, steps.start_ns + 1)  # so that no pause runs over from one step into the next
    known = list(_busy(context, first))
    free = difference(
        union(steps.start_ns, steps.end_ns),
        union(np.concatenate([a.starts for a in known]), np.concatenate([a.ends for a in known])),
    )
    step = np.searchsorted(steps.start_ns, free.starts, side="right") - 1
    edge = (free.starts <= steps.start_ns[step] + 1) | (free.ends >= steps.end_ns[step])
    long = free.ends - free.starts > int(DISPATCHES * context.machine.dispatch_s * 1e9) + EDGE_NS * edge
    starts, ends, step = free.starts[long], free.ends[long], step[long]
    before, after = _neighbours(context, starts, ends)
    return Gaps(
        start_ns=starts,
        end_ns=ends,
        before=np.where(starts <= steps.start_ns[step] + 1, -1, before).astype(np.int32),
        after=np.where(ends >= steps.end_ns[step], -1, after).astype(np.int32),
        step=step.astype(np.int32),
    )


def _busy(context: Context, first: Intervals) -> Iterator[Intervals]:
    trace, calls = context.trace, context.trace.runtime_calls
    ops = trace.host_ops
    feeding = np.isin(ops.thread, stepping_threads(trace))
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, feeding)
    working = np.array([bound != "host" for bound in context.bounds], bool)[context.groups.of_op[rows]]
    yield first
    yield Intervals(starts[working], ends[working])
    yield Intervals(calls.start_ns, calls.end_ns)
    yield loader_intervals(trace)
    yield exchange_intervals(trace)
    yield _device(context)


def stepping_threads(trace: Trace) -> Int32s:
    """The threads that the steps wait for: those that feed the device, or take turns with the main one."""
    if trace.on_device:
        return feeding_threads(trace)
    return np.append(workers(trace), main_thread(trace)).astype(np.int32)


def _neighbours(context: Context, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """For each pause the operator that ended last before it and the one that began next; the outermost of several."""
    ops = context.trace.host_ops
    rows = np.flatnonzero(np.isin(ops.thread, stepping_threads(context.trace)))
    if not len(rows):
        return np.full(len(starts), -1), np.full(len(starts), -1)
    by_end = rows[np.argsort(ops.end_ns[rows], kind="stable")]
    by_start = rows[np.argsort(ops.start_ns[rows], kind="stable")]
    last = np.searchsorted(ops.end_ns[by_end], starts, side="right") - 1
    following = np.searchsorted(ops.start_ns[by_start], ends, side="left")
    return (
        np.where(last >= 0, by_end[np.maximum(last, 0)], -1),
        np.append(by_start, -1)[following],
    )
