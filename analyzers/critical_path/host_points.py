"""The moments of a host thread that others wait for, or that wait for others; between them it runs on its own.

A point has a time at which the thread gets there and one at which it goes on: a runtime call begins and returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from probe.analyzers.timeline.calls import calls_named, is_draining, is_sync
from probe.analyzers.timeline.threads import busy, computing, feeding_threads, main_thread, workers
from probe.intervals import union
from probe.trace import Int32s, Int64s, Mask, Steps, Table, Trace


class Kind(IntEnum):
    """What a point is. Of points of one thread at the same time, the lower goes first."""

    HANDED_BACK = 0  # a worker's last moment before the main thread goes on
    RESUMED = 1  # the main thread, after its workers
    STEP_ENDS = 2
    STEP_BEGINS = 3
    PAUSED = 4  # the main thread, before its workers
    HANDED_OVER = 5  # a worker's first moment
    CALL = 6  # hands work to the device
    WAIT = 7  # returns when the device has done some work
    WORK = 8  # no point of the host: a kernel, copy or memset


@dataclass(frozen=True, eq=False)
class Points(Table):
    """Points sorted by thread and time."""

    kind: Int64s
    row: Int64s  # of a call: in Trace.runtime_calls; of a step: in the steps; of the others the pause
    thread: Int32s
    begin_ns: Int64s
    end_ns: Int64s


def host_points(trace: Trace, marks: Steps) -> Points:
    """All points of the threads that a step waits for."""
    tables = [*_call_points(trace), *_mark_points(trace, marks), *_turns(trace, marks)]
    joined = Points(*(np.concatenate(columns) for columns in zip(*map(_columns, tables), strict=True)))
    return joined.where(np.lexsort((joined.kind, joined.begin_ns, joined.thread)))


def _columns(points: Points) -> tuple[Int64s, ...]:
    return tuple(np.asarray(column) for _, column in points.columns())


def _points(kind: Kind, row: Int64s, thread: Int64s | Int32s, begin_ns: Int64s, end_ns: Int64s) -> Points:
    return Points(np.full(len(row), int(kind), np.int64), row, thread.astype(np.int32), begin_ns, end_ns)


def _call_points(trace: Trace) -> Iterator[Points]:
    """Calls that launch device work and calls that wait for it.

    A call that copies from or to pageable memory does both: it hands over when it begins and returns after the copy.
    """
    calls = trace.runtime_calls
    launching, copying = launches(trace)
    waiting = calls_named(trace, lambda name: is_sync(name) or is_draining(name))
    waiting &= np.isin(calls.thread, feeding_threads(trace)) & ~launching
    for kind, rows, until in (
        (Kind.CALL, launching & ~copying, calls.end_ns),
        (Kind.CALL, copying, calls.start_ns),
        (Kind.WAIT, copying | waiting, calls.end_ns),
    ):
        at = np.flatnonzero(rows)
        yield _points(kind, at, calls.thread[at], calls.start_ns[at], until[at])


def launches(trace: Trace) -> tuple[Mask, Mask]:
    """Which calls launched device work, and which of them waited for their copy, [calls].

    A call that copies from or to pageable memory stages it: it returns with the last part of the copy.
    """
    calls, copies = trace.runtime_calls, trace.copies
    launching, copying = np.zeros(len(calls), bool), np.zeros(len(calls), bool)
    for work in (trace.kernels, copies):
        launching[work.launch[work.launch >= 0]] = True
    rows = np.flatnonzero((copies.launch >= 0) & copies.crosses_bus)
    launch, returned = copies.launch[rows], calls.end_ns[copies.launch[rows]]
    staged = trace.named(lambda name: "Pageable" in name)[copies.name[rows]] & (copies.start_ns[rows] < returned)
    copying[launch[(copies.end_ns[rows] <= returned) | staged]] = True
    return launching, copying


def _mark_points(trace: Trace, marks: Steps) -> Iterator[Points]:
    """Where the steps begin and end on the main thread."""
    thread = np.full(len(marks), main_thread(trace))
    rows = np.arange(len(marks))
    yield _points(Kind.STEP_BEGINS, rows, thread, marks.start_ns, marks.start_ns)
    yield _points(Kind.STEP_ENDS, rows, thread, marks.end_ns, marks.end_ns)


def _turns(trace: Trace, marks: Steps) -> Iterator[Points]:
    """Where the main thread hands over to workers that take turns with it, as autograd's threads do, and goes on.

    It also shows a sign of life where it marks a step.
    """
    main = main_thread(trace)
    running, signs = computing(trace, main), np.append(marks.start_ns, marks.end_ns)
    own = union(np.append(running.starts, signs), np.append(running.ends, signs + 1))
    if not len(own):
        return
    for worker in workers(trace).tolist():
        turn = busy(trace, worker)
        pause = np.searchsorted(own.ends, turn.starts, side="right") - 1  # the pause after that many busy times
        after = np.append(own.starts, np.iinfo(np.int64).max)[pause + 1]
        inside = (pause >= 0) & (turn.ends <= after) & (pause + 1 < len(own))
        if not inside.any():
            continue
        rows, first = np.unique(pause[inside], return_index=True)
        begin = turn.starts[inside][first]
        end = turn.ends[inside][np.append(first[1:], inside.sum()) - 1]
        mains, theirs = np.full(len(rows), main), np.full(len(rows), worker)
        yield _points(Kind.PAUSED, rows, mains, own.ends[rows], own.ends[rows])
        yield _points(Kind.HANDED_OVER, rows, theirs, begin, begin)
        yield _points(Kind.HANDED_BACK, rows, theirs, end, end)
        yield _points(Kind.RESUMED, rows, mains, own.starts[rows + 1], own.starts[rows + 1])
