"""What the host waits for: the device, in synchronisations, copies and full queues; and its own threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.critical_path.device_work import Edges, Streams, Work
from probe.analyzers.critical_path.host_points import Kind, Points
from probe.trace import Int64s, Mask, Trace

CLOCKS_NS = 5_000  # by which the clocks of host and device may differ: a wait seems to end before what it waits for
APART_NS = 50_000  # the same where the wait is for everything: nothing can still run, so clocks alone tell it otherwise
FULL_QUEUE = 256  # that many launches that have not started may fill a queue (CUDA's holds 1024, graphs count more)
BLOCKED_FACTOR = 10  # a launch this many times longer than the typical one was blocked
BLOCKED_NS = 50_000  # and no shorter than this


def device_waits(trace: Trace, points: Points, work: Work, found: Streams) -> Edges:
    """Points of the host (`later`) that go on when some device work (`earlier`) has ended."""
    edges = [
        *_synchronising(trace, points, work, found),
        _copying(points, work),
        *_blocked(points, work, found),
    ]
    earlier, later = (np.concatenate(side) for side in zip(*edges, strict=True))
    lag = np.minimum(0, points.end_ns[later] - work.end_ns[earlier])
    return Edges(earlier, later, lag)


def _synchronising(trace: Trace, points: Points, work: Work, found: Streams) -> Iterator[tuple[Int64s, Int64s]]:
    """The last work of each stream that was issued before the wait began.

    A stream that was busy when the wait ended is not among those waited for. An event may be older than the last work:
    what had ended by then is what its stream was waited for.
    """
    waits = np.flatnonzero((points.kind == Kind.WAIT) & ~_copies(points, work))
    named = trace.runtime_calls.name[points.row[waits]]
    of_event = trace.named(lambda name: "event" in name.lower())[named]
    of_device = trace.named(lambda name: "DeviceSynchronize" in name)[named]
    until = points.end_ns[waits] + np.where(of_device, APART_NS, CLOCKS_NS)
    for number, rows in enumerate(found.work):
        last = np.searchsorted(found.issued_ns[number], points.begin_ns[waits], side="left")
        ended = np.searchsorted(found.done_ns[number], until, side="right")
        last = np.where(of_event, np.minimum(last, ended), last)
        there = (last > 0) & (last <= ended)
        yield rows[last[there] - 1], waits[there]


def _copies(points: Points, work: Work) -> Mask:
    """Which waits are those of calls that launched something themselves, [points]."""
    waits: Mask = points.kind == Kind.WAIT
    return waits & np.isin(points.row, work.launch)


def _copying(points: Points, work: Work) -> tuple[Int64s, Int64s]:
    """Copies whose call returned after them."""
    at = np.flatnonzero(_copies(points, work))
    order = np.argsort(points.row[at], kind="stable")
    rows = np.flatnonzero(np.isin(work.launch, points.row[at]))
    return rows, at[order][np.searchsorted(points.row[at][order], work.launch[rows])]


def _blocked(points: Points, work: Work, found: Streams) -> Iterator[tuple[Int64s, Int64s]]:
    """Launches that returned when a full queue had room again: what ended last before, on the same stream."""
    calls = np.flatnonzero(points.kind == Kind.CALL)
    length = points.end_ns[calls] - points.begin_ns[calls]
    limit = max(BLOCKED_NS, BLOCKED_FACTOR * float(np.median(length))) if len(calls) else 0
    long = calls[length > limit]
    for number, rows in enumerate(found.work):
        mine = long[np.isin(points.row[long], work.launch[rows])]
        issued = np.searchsorted(found.issued_ns[number], points.begin_ns[mine], side="left")
        ended = np.searchsorted(found.done_ns[number], points.end_ns[mine] + CLOCKS_NS, side="right")
        there = (ended > 0) & (issued - ended >= FULL_QUEUE)
        yield rows[ended[there] - 1], mine[there]


def turns(points: Points) -> Edges:
    """Points that go on when another thread has reached one: workers that are handed to, and the thread they serve."""
    none = np.zeros(0, np.int64)
    over, back = (np.flatnonzero(points.kind == kind) for kind in (Kind.HANDED_OVER, Kind.HANDED_BACK))
    if not len(over):
        return Edges(none, none, none)
    paused, resumed = (np.flatnonzero(points.kind == kind) for kind in (Kind.PAUSED, Kind.RESUMED))
    earlier = np.append(_first(points, paused, points.row[over]), back)
    later = np.append(over, _first(points, resumed, points.row[back]))
    return Edges(earlier, later, points.begin_ns[later] - points.end_ns[earlier])


def _first(points: Points, among: Int64s, rows: Int64s) -> Int64s:
    """For each pause the first of the given points that belongs to it."""
    return among[np.searchsorted(points.row[among], rows)]
