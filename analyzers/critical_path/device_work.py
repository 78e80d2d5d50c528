"""What a piece of device work waits for: the one before it on its stream, its launch, and work of other streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probe.analyzers.critical_path.host_points import Kind, Points
from probe.analyzers.gpu.launch_queue import PROMPT_NS
from probe.analyzers.timeline.calls import calls_named, is_stream_wait
from probe.trace import Int32s, Int64s, Mask, Table, Trace

LATE_NS = 5_000  # later than a stream and a launch let it start
FASTEST_PERCENT = 5.0  # of all delays between launch and start: about what the way to the device takes at the least


@dataclass(frozen=True, eq=False)
class Work(Table):
    """Kernels, then copies and memsets. Row n of the kernels is row n here, copies follow."""

    start_ns: Int64s
    end_ns: Int64s
    stream: Int64s  # number of the stream, over all devices
    launch: Int64s  # row of the runtime call, -1 for none
    op: Int64s  # row of the host operator, -1 for none
    issued_ns: Int64s  # when the call that launched it began; before everything where that is not known


@dataclass(frozen=True, eq=False)
class Edges(Table):
    """`later` cannot start before `earlier` has ended and `lag_ns` more have passed; numbers of work."""

    earlier: Int64s
    later: Int64s
    lag_ns: Int64s


def device_work(trace: Trace) -> Work:
    """All device work of a trace."""
    tables = (trace.kernels, trace.copies)
    launch, op, start, end, stream, device = (
        np.concatenate([getattr(t, name) for t in tables]).astype(np.int64)
        for name in ("launch", "op", "start_ns", "end_ns", "stream", "device")
    )
    each = np.unique(stream)
    place = device * len(each) + np.searchsorted(each, stream)  # streams of two devices may have the same number
    number = np.searchsorted(np.unique(place), place).astype(np.int64)
    issued = np.append(trace.runtime_calls.start_ns, np.iinfo(np.int64).min)[launch]
    return Work(start, end, number, launch, op, issued)


def stream_order(work: Work) -> Edges:
    """Each piece of work after the one before it on its stream. Overlapping work keeps its overlap."""
    order = np.lexsort((work.start_ns, work.stream))
    same = work.stream[order[1:]] == work.stream[order[:-1]]
    earlier, later = order[:-1][same], order[1:][same]
    return Edges(earlier, later, np.minimum(0, work.start_ns[later] - work.end_ns[earlier]))


def least_delay_ns(work: Work) -> int:
    """What the way from a call to the device takes at the least; a few microseconds where everything queues."""
    known = work.launch >= 0
    delays = work.start_ns[known] - work.issued_ns[known]
    delays = delays[delays >= 0]
    return int(min(np.percentile(delays, FASTEST_PERCENT, method="lower"), PROMPT_NS)) if len(delays) else 0


@dataclass(frozen=True, eq=False)
class Streams:
    """Of each stream the numbers of its work in order, when each was issued, and when the stream was done with it."""

    work: tuple[Int64s, ...]
    issued_ns: tuple[Int64s, ...]
    done_ns: tuple[Int64s, ...]


def streams(work: Work) -> Streams:
    """The streams, in the order of their numbers."""
    order = np.lexsort((work.start_ns, work.stream))
    each = np.split(order, np.flatnonzero(np.diff(work.stream[order])) + 1) if len(order) else []
    return Streams(
        tuple(each),
        tuple(np.maximum.accumulate(work.issued_ns[rows]) for rows in each),
        tuple(np.maximum.accumulate(work.end_ns[rows]) for rows in each),
    )


def across_streams(trace: Trace, work: Work, found: Streams, allowed_ns: Int64s) -> Edges:
    """Work that waits for other streams. allowed_ns: when each could have started for all that is known, [work].

    A trace does not say which event a stream waits for. After a call that makes a stream wait, the next work that its
    thread launches is taken to wait for all that other streams had been given before; whatever starts late is taken to
    wait for what other streams ended in the meantime. Nothing that ended later than the work began can be it.
    """
    if len(found.work) < 2:
        none = np.zeros(0, np.int64)
        return Edges(none, none, none)
    told, since = _after_waits(trace, work)
    late = np.flatnonzero(work.start_ns - allowed_ns > LATE_NS)
    edges = [*_given_before(work, found, told, since), *_meanwhile(work, found, late, allowed_ns)]
    earlier, later = (np.concatenate(side) for side in zip(*edges, strict=True))
    pairs = np.unique(np.stack([earlier, later]), axis=1)
    return Edges(pairs[0], pairs[1], np.zeros(pairs.shape[1], np.int64))


def _after_waits(trace: Trace, work: Work) -> tuple[Int64s, Int64s]:
    """Work whose launch is the first of its thread after a call that makes a stream wait, and when that call began."""
    calls = trace.runtime_calls
    waits = np.flatnonzero(calls_named(trace, is_stream_wait))
    known = np.flatnonzero(work.launch >= 0)
    order = known[np.lexsort((work.issued_ns[known], calls.thread[work.launch[known]]))]
    key = _by_thread(calls.thread[work.launch[order]], work.issued_ns[order])
    at = np.searchsorted(key, _by_thread(calls.thread[waits], calls.start_ns[waits]))
    inside = at < len(order)
    target = order[at[inside]]
    same = calls.thread[work.launch[target]] == calls.thread[waits[inside]]
    return target[same], calls.start_ns[waits[inside][same]]


def _by_thread(thread: Int64s | Int32s, instant_ns: Int64s) -> Int64s:
    """One number that sorts by thread, then time."""
    return thread.astype(np.int64) * (1 << 50) + instant_ns


def _given_before(work: Work, found: Streams, told: Int64s, since: Int64s) -> Iterator[tuple[Int64s, Int64s]]:
    """The last work of each other stream that was issued before an instant and had ended when the work began."""
    for number, rows in enumerate(found.work):
        last = np.minimum(
            np.searchsorted(found.issued_ns[number], since, side="left"),
            np.searchsorted(found.done_ns[number], work.start_ns[told], side="right"),
        )
        there = (last > 0) & (work.stream[told] != number)
        yield rows[last[there] - 1], told[there]


def _meanwhile(work: Work, found: Streams, late: Int64s, allowed_ns: Int64s) -> Iterator[tuple[Int64s, Int64s]]:
    """The last work of each other stream that ended before late work began, but after it could have begun."""
    for number, rows in enumerate(found.work):
        last = np.searchsorted(found.done_ns[number], work.start_ns[late], side="right")
        ended = np.append(found.done_ns[number], 0)[np.maximum(last - 1, 0)]
        there: Mask = (last > 0) & (work.stream[late] != number)
        there &= ended > allowed_ns[late]
        yield rows[last[there] - 1], late[there]


def launch_points(points: Points, calls: int) -> Int64s:
    """For each runtime call the point at which it hands work over, -1 for none, [calls + 1]: the last is -1."""
    found = np.full(calls + 1, -1, np.int64)
    at = np.flatnonzero(points.kind == Kind.CALL)
    found[points.row[at]] = at
    return found
