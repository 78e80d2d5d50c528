"""When does the host wait for the device, on whose behalf, and how long does the device idle because of it?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from probe.analyzers.operators.steps import step_of
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.claims import claimed
from probe.analyzers.timeline.calls import calls_named, is_copy, is_sync
from probe.analyzers.timeline.device import device_busy
from probe.intervals import Intervals, difference, length_before, union
from probe.trace import Int64s, Mask, Trace


@dataclass(frozen=True, eq=False)
class Waits:
    """Runtime calls of the steps that return only when the device has done something: synchronisations, and copies."""

    trace: Trace
    steps: int
    calls: Int64s  # rows of Trace.runtime_calls
    stall_ns: Int64s  # how long the device has nothing to do from the call's return on until its next work, less usual
    until_ns: Int64s  # when its next work begins; 0 where an earlier call returned before the same work

    def asker(self, wait: int) -> str:
        """The name of the outermost torch operator that made the call, else of the call itself."""
        rows = self.askers(wait)
        trace = self.trace
        name = trace.host_ops.name[rows[-1]] if rows else trace.runtime_calls.name[self.calls[wait]]
        return str(trace.names[name])

    def askers(self, wait: int) -> list[int]:
        """The torch operators around the call, the innermost first; wrappers of autograd and modules are none."""
        ops = self.trace.host_ops
        row = int(self.trace.runtime_calls.op[self.calls[wait]])
        found = []
        while row >= 0:
            if "::" in self.trace.names[ops.name[row]] and "autograd" not in self.trace.names[ops.name[row]]:
                found.append(row)
            row = int(ops.parent[row])
        return found

    def asked_by(self, names: Collection[str]) -> Mask:
        """Which waits were made on behalf of an operator of one of these names, [waits]."""
        ops = self.trace.host_ops
        wanted = self.trace.named(lambda name: name in names)[ops.name] if len(ops) else np.zeros(0, bool)
        return self._below(wanted)

    def claimed(self, context: Context) -> Mask:
        """Which waits belong to findings already made."""
        return self._below(claimed(context))

    def _below(self, wanted: Mask) -> Mask:
        ops = self.trace.host_ops
        rows = self.trace.runtime_calls.op[self.calls].astype(np.int64)
        found = np.zeros(len(rows), bool)
        while (rows >= 0).any():
            found |= (rows >= 0) & np.append(wanted, False)[rows]
            rows = np.append(ops.parent, -1)[rows]
        return found

    def waited_s(self, rows: Mask) -> float:
        """Seconds per step in the calls."""
        calls, chosen = self.trace.runtime_calls, self.calls[rows]
        return float((calls.end_ns - calls.start_ns)[chosen].sum()) / 1e9 / self.steps

    def stalled_s(self, rows: Mask) -> float:
        """Seconds per step in which the device idles because of the calls."""
        return float(self.stall_ns[rows].sum()) / 1e9 / self.steps

    def stalls(self) -> Intervals:
        """From each call's return until the device's next work."""
        return union(self.trace.runtime_calls.end_ns[self.calls], self.until_ns)

    def ops(self, rows: Mask) -> tuple[int, ...]:
        """The outermost operators on whose behalf the calls were made."""
        found = [self.askers(wait) for wait in np.flatnonzero(rows).tolist()]
        return tuple(sorted({askers[-1] for askers in found if askers}))

    def groups(self, context: Context, rows: Mask) -> tuple[int, ...]:
        """The groups of those operators."""
        return tuple(sorted({int(context.groups.of_op[row]) for row in self.ops(rows)}))


def waits(context: Context) -> Waits:
    """The waits inside the steps."""
    trace = context.trace
    calls = trace.runtime_calls
    rows = np.flatnonzero(calls_named(trace, is_sync) | _blocking_copies(trace))
    rows = rows[step_of(context.steps, calls.start_ns[rows]) >= 0] if len(rows) else rows
    return Waits(trace, len(context.steps), rows, *_stalls(trace, rows))


def _blocking_copies(trace: Trace) -> Mask:
    """Copy calls that return only when their copy to the host has ended, [calls]."""
    calls, copies = trace.runtime_calls, trace.copies
    to_host = trace.named(lambda name: "DtoH" in name or "Device -> Host" in name)[copies.name]
    rows = np.flatnonzero(to_host & (copies.launch >= 0))
    blocking = calls.end_ns[copies.launch[rows]] >= copies.end_ns[rows]
    found = np.zeros(len(calls), bool)
    found[copies.launch[rows[blocking]]] = True
    return found & calls_named(trace, is_copy)


def _stalls(trace: Trace, rows: Int64s) -> tuple[Int64s, Int64s]:
    """For each call how long the device idles between its return and the next work, beyond a usual gap; and until when.

    Of several waits before the same work the first has all of it.
    """
    calls, busy = trace.runtime_calls, device_busy(trace)
    if not len(rows) or not len(busy):
        return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    idle = difference(union([busy.starts[0]], [busy.ends[-1]]), busy)
    lengths = idle.ends - idle.starts
    usual = float(np.median(np.append(lengths, np.zeros(max(len(trace.kernels) - len(idle), 0)))))  # none counts as 0
    order = np.argsort(calls.end_ns[rows], kind="stable")
    returned = calls.end_ns[rows[order]]
    following = np.append(busy.starts, busy.ends[-1])[np.searchsorted(busy.starts, returned, side="left")]
    stall, until = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    until[order] = np.where(np.diff(following, prepend=-1) != 0, following, 0)
    stall[order] = np.maximum(_idle(idle, returned, until[order]) - usual, 0).astype(np.int64)
    return stall, until


def _idle(idle: Intervals, since: Int64s, until: Int64s) -> Int64s:
    return np.asarray(np.maximum(length_before(idle, until) - length_before(idle, since), 0), np.int64)
