"""Make a Trace's tables from unordered events: sort, nest operators, join device work to its launch and operator.

Readers of every format end here; nothing in this file knows a format's keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from probe.trace import DeviceWork, HostOps, Int32s, Int64s, RuntimeCalls

NONE = -1


class OpEvent(NamedTuple):
    """One operator call as a reader found it; the fields are those of HostOps."""

    name: int
    thread: int
    start_ns: int
    end_ns: int
    signature: int
    external_id: int
    sequence: int
    forward_thread: int


class RuntimeEvent(NamedTuple):
    """One runtime or driver call."""

    name: int
    thread: int
    start_ns: int
    end_ns: int
    correlation: int


class WorkEvent(NamedTuple):
    """One kernel, copy or memset on a device."""

    name: int
    start_ns: int
    end_ns: int
    device: int
    stream: int
    correlation: int
    external_id: int
    bytes: int
    launch_shape: int
    crosses_bus: bool


def column(rows: Sequence[Sequence[Any]], index: int, dtype: type = np.int64) -> Any:
    """One field of all rows as an array."""
    return np.fromiter((row[index] for row in rows), dtype, len(rows))


def host_ops(events: Sequence[OpEvent]) -> tuple[HostOps, int]:
    """The operators as a forest with self times, and how many had to be cut at their parent's end."""
    name, thread, start, end, signature, external, sequence, forward = (
        column(events, i) for i in range(len(OpEvent._fields))
    )
    order = np.lexsort((external, -end, start, thread))
    thread, start, end = thread[order], start[order], end[order]
    parent, clamped = nest(thread, start, end)
    ops = HostOps(
        name=name[order].astype(np.int32),
        thread=thread.astype(np.int32),
        start_ns=start,
        end_ns=end,
        parent=parent,
        self_ns=self_times(start, end, parent),
        signature=signature[order].astype(np.int32),
        external_id=external[order],
        sequence=sequence[order],
        forward_thread=forward[order],
    )
    return ops, clamped


def nest(thread: Int64s, start: Int64s, end: Int64s) -> tuple[Int32s, int]:
    """The row of the innermost enclosing interval of each, -1 for none; rows sorted by thread, start, longest first.

    An interval that ends after the one it started in is cut at that one's end (`end` is changed in place): profilers
    round the two ends separately, and some backends really overlap by a few hundred nanoseconds.
    """
    parent = np.full(len(start), NONE, np.int32)
    stack: list[int] = []
    clamped = 0
    last_thread = None
    threads, starts, ends = thread.tolist(), start.tolist(), end.tolist()
    for row, (own_thread, own_start, own_end) in enumerate(zip(threads, starts, ends, strict=True)):
        if own_thread != last_thread:
            stack.clear()
            last_thread = own_thread
        while stack and ends[stack[-1]] <= own_start:
            stack.pop()
        if stack:
            parent[row] = stack[-1]
            if own_end > ends[stack[-1]]:
                ends[row] = ends[stack[-1]]
                clamped += 1
        stack.append(row)
    end[:] = ends
    return parent, clamped


def self_times(start: Int64s, end: Int64s, parent: Int32s) -> Int64s:
    """Duration of each interval less that of its direct children."""
    own = end - start
    nested = parent >= 0
    result = own.copy()
    np.subtract.at(result, parent[nested], own[nested])
    return result


def innermost(ops: HostOps, thread: Int64s, instant: Int64s) -> Int32s:
    """For each (thread, instant) the row of the innermost operator that was running there, -1 for none."""
    found = np.full(len(instant), NONE, np.int32)
    for one in np.unique(thread):
        rows = np.flatnonzero(ops.thread == one)
        if not len(rows):
            continue
        asked = np.flatnonzero(thread == one)
        at = np.searchsorted(ops.start_ns[rows], instant[asked], side="right") - 1
        candidate = np.where(at >= 0, rows[np.maximum(at, 0)], NONE).astype(np.int32)
        found[asked] = _climb(ops, candidate, instant[asked])
    return found


def _climb(ops: HostOps, candidate: Int32s, instant: Int64s) -> Int32s:
    """Replace each candidate that had ended by its parent until one was still running."""
    while True:
        over = candidate >= 0
        over[over] = ops.end_ns[candidate[over]] <= instant[over]
        if not over.any():
            return candidate
        candidate = candidate.copy()
        candidate[over] = ops.parent[candidate[over]]


def runtime_calls(events: Sequence[RuntimeEvent], ops: HostOps) -> RuntimeCalls:
    """The calls sorted by thread and start, each with the operator that made it."""
    name, thread, start, end, correlation = (column(events, i) for i in range(len(RuntimeEvent._fields)))
    order = np.lexsort((start, thread))
    return RuntimeCalls(
        name=name[order].astype(np.int32),
        thread=thread[order].astype(np.int32),
        start_ns=start[order],
        end_ns=end[order],
        correlation=correlation[order],
        op=innermost(ops, thread[order], start[order]),
    )


def device_work(events: Sequence[WorkEvent], ops: HostOps, calls: RuntimeCalls) -> DeviceWork:
    """The work sorted by start, joined to its launch by correlation and to its operator through the launch.

    Where the launch is not in the trace the external id, which some profilers put on both sides, names the operator.
    """
    name, start, end, device, stream, correlation, external, size, shape, crosses_bus = (
        column(events, i) for i in range(len(WorkEvent._fields))
    )
    order = np.lexsort((end, start))
    launch = _match(calls.correlation, correlation[order])
    op = np.full(len(order), NONE, np.int32)
    op[launch >= 0] = calls.op[launch[launch >= 0]]
    # In traces of 2022 a device row's external id repeats its correlation id and names no operator.
    lost = (op < 0) & (external[order] != correlation[order])
    op[lost] = _match(ops.external_id, external[order][lost])
    return DeviceWork(
        name=name[order].astype(np.int32),
        start_ns=start[order],
        end_ns=end[order],
        device=device[order].astype(np.int32),
        stream=stream[order],
        correlation=correlation[order],
        launch=launch,
        op=op,
        bytes=size[order],
        launch_shape=shape[order].astype(np.int32),
        crosses_bus=crosses_bus[order].astype(np.bool_),
    )


def _match(keys: Int64s, wanted: Int64s) -> Int32s:
    """For each wanted key the last row that has it (ids grow inwards), -1 for none; negative keys match nothing."""
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys, wanted, side="right", sorter=order) - 1
    rows = np.where(at >= 0, order[np.maximum(at, 0)], NONE) if len(keys) else np.full(len(wanted), NONE)
    hit = rows >= 0
    hit[hit] = (keys[rows[hit]] == wanted[hit]) & (wanted[hit] >= 0)
    return np.where(hit, rows, NONE).astype(np.int32)
