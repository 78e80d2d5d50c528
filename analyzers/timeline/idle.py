"""Why has the device nothing to do: what its queue held, and what the threads that feed it were doing meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probe.analyzers.timeline.calls import calls_named, is_allocation, is_copy, is_sync
from probe.analyzers.timeline.device import device_busy
from probe.analyzers.timeline.pieces import exclusive
from probe.analyzers.timeline.threads import any_busy, feeding_threads, is_operator, loader_intervals
from probe.intervals import EMPTY, Intervals, covers, difference, intersection, union
from probe.trace import Int64s, Mask, RuntimeCalls, Trace

# A gap that opens this soon after a synchronisation returned, or during it, is that synchronisation's: the queue was
# drained on purpose. Returning takes a few microseconds on every device that gpu-benches has results for.
RETURN_NS = 10_000
# Work that was handed over and does not start for longer than this waits for something that the trace does not show.
UNEXPLAINED_NS = 1_000_000
# An operator that is busy for longer than this and launches nothing computes: no dispatch takes as long, not even under
# a profiler that records stacks.
COMPUTING_NS = 100_000


@dataclass(frozen=True)
class Claim:
    """Time that a part of the step claims, and where nothing runs, the cause."""

    part: str
    intervals: Intervals
    cause: str | None = None


def idle_claims(trace: Trace, gap_ns: int) -> Iterator[Claim]:
    """The causes of an idle device, the surest first.

    Work that is in the queue and has not started is the device's own delay. Otherwise it waits for the host, and what
    the host's threads do at that instant is the cause; dispatching right after a synchronisation is the latter's:
    without it the queue would not have run dry. An operator that is busy for long without a launch computes on the
    host. gap_ns: how long a pause between operators may be to be dispatching.
    """
    gaps = _gaps(trace)
    yield Claim("overhead", gaps.queued, "queue")
    yield Claim("idle", gaps.unexplained, "queue")
    yield Claim("host", loader_intervals(trace), "loader")
    feeding = feeding_threads(trace)
    calls = trace.runtime_calls.where(np.isin(trace.runtime_calls.thread, feeding))
    waiting, allocating = _named_calls(trace, calls)
    yield Claim("overhead", _covered(calls, waiting), "sync")
    yield Claim("overhead", _covered(calls, allocating), "allocator")
    yield Claim("overhead", intersection(gaps.launched, gaps.after_sync), "sync")
    yield Claim("overhead", gaps.launched, "launch")
    yield Claim("overhead", intersection(_covered(calls, ~waiting & ~allocating), gaps.after_sync), "sync")
    yield Claim("overhead", _covered(calls, ~waiting & ~allocating), "launch")
    yield from _dispatching(trace, calls, gaps.after_sync, gap_ns)


def _dispatching(trace: Trace, calls: RuntimeCalls, after_sync: Intervals, gap_ns: int) -> Iterator[Claim]:
    """Operators and the pauses between them: computing on the host, Python, and dispatching with its reason."""
    feeding = np.isin(trace.host_ops.thread, feeding_threads(trace))
    short, computing, wrapping = _operators(trace, feeding, calls, max(gap_ns, COMPUTING_NS))
    pauses, long_pauses = pauses_between(any_busy(trace, feeding_threads(trace)), trace.span_ns, gap_ns)
    for quick in (short, pauses):
        yield Claim("overhead", intersection(quick, after_sync), "sync")
    yield Claim("overhead", short, "launch")
    yield Claim("host", computing, "operators")
    yield Claim("host", wrapping, "python")
    yield Claim("overhead", pauses, "launch")
    yield Claim("host", long_pauses, "python")


@dataclass(frozen=True)
class _Gaps:
    """Time without device work, by the state of the queue."""

    queued: Intervals  # the next work was there before the device ran dry
    launched: Intervals  # the next work is handed over while the device is idle
    unexplained: Intervals  # of both, what no latency of a device explains
    after_sync: Intervals  # gaps that opened while the host waited for the device


def _gaps(trace: Trace) -> _Gaps:
    busy = device_busy(trace)
    if not len(busy):
        return _Gaps(EMPTY, EMPTY, EMPTY, EMPTY)
    opened = np.append(trace.span_ns[0] - 1, busy.ends[:-1])  # nothing is in the queue before the first event
    closed = busy.starts
    called, returned = _launch_times(trace, closed)
    here = called >= 0
    late = here & (called > opened)
    since = np.where(late, called, opened)
    lost = here & (closed - np.maximum(since, np.where(late, returned, since)) > UNEXPLAINED_NS)
    drained = covers(_syncs(trace), opened)
    return _Gaps(
        queued=_chosen(opened, closed, here & ~late & ~lost),
        launched=_chosen(since, closed, late & ~lost),
        unexplained=_chosen(np.where(late, returned, opened), closed, lost),
        after_sync=_chosen(opened, closed, drained),
    )


def _launch_times(trace: Trace, starts: Int64s) -> tuple[Int64s, Int64s]:
    """When the call began and returned that launched the work which starts at each instant; -1 where not recorded."""
    begun = np.concatenate([trace.kernels.start_ns, trace.copies.start_ns])
    launch = np.concatenate([trace.kernels.launch, trace.copies.launch])
    order = np.argsort(begun, kind="stable")
    row = launch[order[np.searchsorted(begun[order], starts)]]
    calls = trace.runtime_calls
    called, returned = np.append(calls.start_ns, -1)[row], np.append(calls.end_ns, -1)[row]
    return called, returned


def _syncs(trace: Trace) -> Intervals:
    """When the host waits for the device, and a moment longer; copies that wait are told by their operator's time."""
    calls = trace.runtime_calls
    rows = calls_named(trace, lambda name: is_sync(name) or is_copy(name))
    rows &= np.isin(calls.thread, feeding_threads(trace))
    return union(calls.start_ns[rows], calls.end_ns[rows] + RETURN_NS)


def _chosen(starts: Int64s, ends: Int64s, rows: Mask) -> Intervals:
    return union(starts[rows], ends[rows])


def _named_calls(trace: Trace, calls: RuntimeCalls) -> tuple[Mask, Mask]:
    """Which calls wait for the device, and which allocate."""
    return trace.named(is_sync)[calls.name], trace.named(is_allocation)[calls.name]


def _covered(calls: RuntimeCalls, rows: Mask) -> Intervals:
    return union(calls.start_ns[rows], calls.end_ns[rows])


def _operators(
    trace: Trace, rows: Mask, calls: RuntimeCalls, longest_ns: int
) -> tuple[Intervals, Intervals, Intervals]:
    """Operators' own time: dispatching; computing, which is long and launches nothing; Python in a named range."""
    ops = trace.host_ops
    starts, ends, owners = exclusive(ops.start_ns, ops.end_ns, ops.parent, rows)
    begun = np.sort(calls.start_ns)
    long = ends - starts > longest_ns
    at = np.flatnonzero(long)
    long[at] = np.searchsorted(begun, ends[at]) == np.searchsorted(begun, starts[at])
    computes = trace.named(is_operator)[ops.name[owners]] if len(owners) else long
    return (
        _chosen(starts, ends, ~long),
        _chosen(starts, ends, long & computes),
        _chosen(starts, ends, long & ~computes),
    )


def pauses_between(busy: Intervals, span_ns: tuple[int, int], gap_ns: int) -> tuple[Intervals, Intervals]:
    """Time between operators: short pauses are dispatching, long ones Python, I/O or waiting."""
    if not len(busy):
        return EMPTY, EMPTY
    gaps = difference(union([span_ns[0]], [span_ns[1]]), busy)
    short = (gaps.ends - gaps.starts) <= gap_ns
    return union(gaps.starts[short], gaps.ends[short]), union(gaps.starts[~short], gaps.ends[~short])
