"""Make a Trace of the events that a reader found: sort, nest operators, join device work to its launch and operator.

Readers of every format end here; nothing in this file knows a format's keys.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from probe.readers.counts import counted, told_of_file, told_of_rows
from probe.readers.events import NONE, About, Events, OpEvents, RuntimeEvents, WorkEvents, empty
from probe.readers.frames import nested
from probe.readers.memory_events import allocations
from probe.readers.nesting import innermost, nest, self_times
from probe.readers.step_marks import marked_steps
from probe.trace import (
    Annotations,
    Collectives,
    DeviceWork,
    HostOps,
    Int32s,
    Int64s,
    Mask,
    Quality,
    RuntimeCalls,
    Trace,
)

_ROUNDING_NS = 1000  # old files hold whole microseconds, those of 2023 floats with a quarter: ends are rounded by that


def trace(events: Events, about: About) -> Trace:
    """The finished trace; its nanosecond 0 is the start of the first event. Large tables of `events` are emptied."""
    origin = min((int(t.start_ns.min()) for t in _timed(events) if len(t)), default=0)
    _merge_threads(events)
    ops, clamped = host_ops(events.ops, origin)
    events.ops = empty(OpEvents)  # so that nothing is held twice for longer than it takes
    calls = runtime_calls(events.runtime, ops, origin)
    events.runtime = empty(RuntimeEvents)
    kernels = device_work(events.kernels, ops, calls, origin)
    events.kernels = empty(WorkEvents)
    copies = device_work(events.copies, ops, calls, origin)
    marks = _annotations(events.annotations, origin)
    steps, step_thread, _ = marked_steps(marks, events.names)
    made = Trace(
        path=about.path,
        device=about.device,
        names=events.names,
        signatures=events.signatures,
        threads=events.threads,
        launch_shapes=events.launch_shapes,
        host_ops=ops,
        runtime_calls=calls,
        kernels=kernels,
        copies=copies,
        annotations=marks,
        collective_calls=events.collective_calls,
        collectives=_collectives(events, ops, kernels),
        steps=steps,
        step_thread=step_thread,
        start_unix_ns=origin + about.base_unix_ns,
        rank=about.rank,
        world_size=about.world_size,
        with_shapes=about.with_shapes,
        with_memory=about.with_memory,
        with_stacks=about.with_stacks,
        quality=_of_file(about, clamped),
        allocations=allocations(events.memory, ops, origin),
        frames=nested(events.frames, origin),
    )
    warnings = (*told_of_file(made.quality), *told_of_rows(made), *about.warnings)
    return replace(made, quality=counted(made), warnings=warnings)


def _of_file(about: About, clamped: int) -> Quality:
    return Quality(
        events=about.events,
        dropped=about.dropped,
        clamped=clamped,
        unknown_devices=about.unknown_devices,
        truncated=about.truncated,
    )


def _timed(events: Events) -> tuple[OpEvents | RuntimeEvents | WorkEvents | Annotations, ...]:
    return (events.ops, events.runtime, events.kernels, events.copies, events.annotations)


def _merge_threads(events: Events) -> None:
    """One number for each thread: some files write the same thread as a number and as text."""
    if len(set(events.threads)) == len(events.threads):
        return
    number = {thread: index for index, thread in enumerate(dict.fromkeys(events.threads))}
    merged = np.array([number[thread] for thread in events.threads], np.int32)
    events.threads = tuple(number)
    events.ops = replace(events.ops, thread=merged[events.ops.thread])
    events.runtime = replace(events.runtime, thread=merged[events.runtime.thread])
    events.annotations = replace(events.annotations, thread=merged[events.annotations.thread])
    events.memory = replace(events.memory, thread=merged[events.memory.thread])
    events.frames = replace(events.frames, thread=merged[events.frames.thread])


def host_ops(events: OpEvents, origin: int = 0) -> tuple[HostOps, int]:
    """The operators as a forest with self times, and how many outlasted their parent by more than rounding.

    All that outlast it are cut at its end.
    """
    order = np.lexsort((events.external_id, -events.end_ns, events.start_ns, events.thread))
    thread = events.thread[order]
    start, end = events.start_ns[order] - origin, events.end_ns[order] - origin
    parent, _ = nest(thread, start, end)  # cuts `end`
    clamped = int((events.end_ns[order] - origin > end + _ROUNDING_NS).sum())
    ops = HostOps(
        name=events.name[order],
        thread=thread,
        start_ns=start,
        end_ns=end,
        parent=parent,
        self_ns=self_times(start, end, parent),
        signature=events.signature[order],
        external_id=events.external_id[order],
        sequence=events.sequence[order],
        record_function=events.record_function[order],
        forward_thread=events.forward_thread[order],
    )
    return ops, clamped


def runtime_calls(events: RuntimeEvents, ops: HostOps, origin: int = 0) -> RuntimeCalls:
    """The calls sorted by thread and start, each with the operator that made it."""
    order = np.lexsort((events.start_ns, events.thread))
    thread, start = events.thread[order], events.start_ns[order] - origin
    return RuntimeCalls(
        name=events.name[order],
        thread=thread,
        start_ns=start,
        end_ns=events.end_ns[order] - origin,
        correlation=events.correlation[order],
        op=innermost(ops, thread, start),
    )


def device_work(events: WorkEvents, ops: HostOps, calls: RuntimeCalls, origin: int = 0) -> DeviceWork:
    """The work sorted by start, joined to its launch by correlation and to its operator through the launch.

    Where the launch is not in the trace the external id, which some profilers put on both sides, names the operator.
    """
    order = np.lexsort((events.end_ns, events.start_ns))
    correlation, external = events.correlation[order], events.external_id[order]
    start = events.start_ns[order] - origin
    launch = _launches(calls, correlation, start)
    op = np.full(len(order), NONE, np.int32)
    op[launch >= 0] = calls.op[launch[launch >= 0]]
    # Until 2023 a device row's external id repeats its correlation id and names no operator; 0 names none either.
    lost = (op < 0) & (external != correlation) & (external > 0)
    op[lost] = _only(ops.external_id, external[lost])
    return DeviceWork(
        name=events.name[order],
        start_ns=start,
        end_ns=events.end_ns[order] - origin,
        device=events.device[order],
        stream=events.stream[order],
        correlation=correlation,
        launch=launch,
        op=op,
        bytes=events.bytes[order],
        launch_shape=events.launch_shape[order],
        crosses_bus=events.crosses_bus[order],
        graph=events.graph[order],
    )


def _launches(calls: RuntimeCalls, correlation: Int64s, start: Int64s) -> Int32s:
    """The call that launched each piece of work: where several have its number, the last that began before it did.

    A runtime call and the driver call in it may share a number; so do calls of different processes in merged files.
    """
    launch = match(calls.correlation, correlation)
    rows = np.flatnonzero(_repeated(calls.correlation))
    if not len(rows):
        return launch
    asked = np.flatnonzero(np.isin(correlation, calls.correlation[rows]))
    both = np.append(calls.correlation[rows], correlation[asked])
    when = np.append(calls.start_ns[rows], start[asked])
    is_work = np.arange(len(both)) >= len(rows)
    order = np.lexsort((is_work, when, both))
    before = np.maximum.accumulate(np.where(is_work[order], NONE, np.arange(len(order))))  # the call that stands before
    found = np.full(len(both), NONE)
    known = before >= 0
    known[known] = both[order[before[known]]] == both[order[known]]
    found[order[known]] = rows[order[before[known]]]
    earlier = found[len(rows) :]
    launch[asked[earlier >= 0]] = earlier[earlier >= 0]
    return launch


def _only(keys: Int64s, wanted: Int64s) -> Int32s:
    """For each wanted key the row that has it, -1 where none has, or several: which of them is meant is unknown."""
    rows = match(keys, wanted)
    hit = rows >= 0
    rows[hit] = np.where(_repeated(keys)[rows[hit]], NONE, rows[hit])
    return rows


def _repeated(keys: Int64s) -> Mask:
    """Which rows have a key that another row has as well; negative keys are none."""
    ordered = np.sort(keys)
    several = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)]
    return np.isin(keys, several) if len(several) else np.zeros(len(keys), bool)


def match(keys: Int64s, wanted: Int64s) -> Int32s:
    """For each wanted key the last row that has it (ids grow inwards), -1 for none; negative keys match nothing."""
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys, wanted, side="right", sorter=order) - 1
    rows = np.where(at >= 0, order[np.maximum(at, 0)], NONE) if len(keys) else np.full(len(wanted), NONE)
    hit = rows >= 0
    hit[hit] = (keys[rows[hit]] == wanted[hit]) & (wanted[hit] >= 0)
    return np.where(hit, rows, NONE).astype(np.int32)


def _annotations(marks: Annotations, origin: int) -> Annotations:
    order = np.lexsort((-marks.end_ns, marks.start_ns))
    chosen = marks.where(order)
    return replace(chosen, start_ns=chosen.start_ns - origin, end_ns=chosen.end_ns - origin)


def _collectives(events: Events, ops: HostOps, kernels: DeviceWork) -> Collectives:
    """Collectives described on kernels and, where no described kernel belongs to them, on operators."""
    told = events.collectives
    kernel = np.where(told.on_device, match(kernels.correlation, told.key), NONE).astype(np.int32)
    op = np.where(told.on_device, NONE, match(ops.external_id, told.key)).astype(np.int32)
    op[kernel >= 0] = kernels.op[kernel[kernel >= 0]]
    # What is told on a kernel that has no number cannot be placed; the operator tells the same.
    keep = np.where(told.on_device, kernel >= 0, (op < 0) | ~np.isin(op, op[told.on_device & (op >= 0)]))
    start = np.full(len(told), np.iinfo(np.int64).max)
    start[op >= 0] = ops.start_ns[op[op >= 0]]
    start[kernel >= 0] = kernels.start_ns[kernel[kernel >= 0]]
    order = np.flatnonzero(keep)
    order = order[np.argsort(start[order], kind="stable")]
    return Collectives(call=told.call[order], op=op[order], kernel=kernel[order], sequence=told.sequence[order])
