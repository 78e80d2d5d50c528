"""What does comparing ranks need of one rank's trace? Its steps and its collectives, on the wall clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.analyzers.cost_models.collectives import is_collective
from probe.analyzers.operators.steps import recorded_steps, step_of
from probe.analyzers.ranks.kinds import (
    KINDS,
    is_collective_kernel,
    kind_of_call,
    kind_of_kernel,
    kind_of_operator,
    payload_bytes,
)
from probe.analyzers.timeline.pieces import exclusive
from probe.intervals import Intervals, clip, difference, union
from probe.results.multirank import CollectiveTimes, Group, RankSteps, RankSummary
from probe.trace import CollectiveCall, Int32s, Int64s, Mask, Steps, Trace

NONE = -1
MARKS = ("nccl:", "rccl:")  # around the host's part of a collective
GLOO = "gloo:"  # what Gloo's own threads call the collectives they run
_MICROSECOND = 1000


@dataclass(frozen=True, eq=False)
class _Found:
    """Collectives as the trace has them, unordered; local times."""

    call: Int64s  # into Trace.collective_calls, -1 for none
    kind: Int32s
    stream: Int64s
    sequence: Int64s
    in_bytes: Int64s
    out_bytes: Int64s
    in_switch: Mask
    start_ns: Int64s
    end_ns: Int64s
    issued_ns: Int64s  # when the host issued it; -1 where not known


def summarise(trace: Trace, rank: int) -> RankSummary:
    """The summary of a trace that rank `rank` recorded."""
    found, untimed = _on_device(trace) if trace.on_device else (_on_host(trace), 0)
    steps = recorded_steps(trace)
    groups, group = _groups(trace, found, rank)
    order = np.argsort(found.start_ns, kind="stable")
    table = CollectiveTimes(
        group=group,
        kind=found.kind,
        sequence=found.sequence,
        step=_step_numbers(steps, found) if len(trace.steps) else np.full(len(order), NONE, np.int64),
        in_bytes=found.in_bytes,
        out_bytes=found.out_bytes,
        in_switch=found.in_switch,
        start_ns=found.start_ns + trace.start_unix_ns,
        end_ns=found.end_ns + trace.start_unix_ns,
    ).where(order)
    return RankSummary(
        rank=rank,
        world_size=trace.world_size,
        path=trace.path,
        device=trace.device.name,
        device_kind=trace.device.kind,
        steps=_steps(trace, steps, found),
        steps_marked=bool(len(trace.steps)),
        groups=groups,
        collectives=table,
        untimed=untimed,
        resolution_ns=_resolution_ns(trace.start_unix_ns + found.start_ns, trace.start_unix_ns + found.end_ns),
    )


def _resolution_ns(*instants: Int64s) -> int:
    """Old profilers wrote whole microseconds."""
    stamps = np.concatenate(instants)
    return _MICROSECOND if len(stamps) and not (stamps % _MICROSECOND).any() else 1


def _on_device(trace: Trace) -> tuple[_Found, int]:
    """Collectives by their kernels, and how many have none; a kernel that serves several calls is one collective."""
    told, kernels = trace.collectives, trace.kernels
    rows, served = _described_kernels(trace)
    described, first = np.unique(served, return_index=True)
    row = rows[first]
    named = trace.named(is_collective_kernel)[kernels.name] if len(kernels) else np.zeros(0, bool)
    others = np.setdiff1d(np.flatnonzero(named), described)
    kernel = np.concatenate([described, others]).astype(np.int64)
    call = np.concatenate([told.call[row], np.full(len(others), NONE)]).astype(np.int64)
    op = np.concatenate([told.op[row], np.full(len(others), NONE)]).astype(np.int64)
    op = np.where(kernels.op[kernel] >= 0, kernels.op[kernel], op)
    into, out = (_summed(side[told.call[rows]], served, kernel, len(kernels)) for side in _payloads(trace))
    issued = _issued(trace, kernels.launch[kernel].astype(np.int64), op)
    switch = trace.named(lambda name: "NVLS" in name)
    found = _Found(
        call=call,
        kind=_kinds(trace, call, op, kernels.name[kernel], issued),
        stream=kernels.stream[kernel],
        sequence=np.concatenate([told.sequence[row], np.full(len(others), NONE, np.int64)]),
        in_bytes=into,
        out_bytes=out,
        in_switch=switch[kernels.name[kernel]] if len(kernel) else np.zeros(0, bool),
        start_ns=kernels.start_ns[kernel],
        end_ns=kernels.end_ns[kernel],
        issued_ns=issued,
    )
    return found, _untimed(trace, rows)


def _described_kernels(trace: Trace) -> tuple[Int64s, Int64s]:
    """Rows of descriptions and the kernel of each: the one it names, or those that its operator launched."""
    told, kernels = trace.collectives, trace.kernels
    direct = np.flatnonzero(told.kernel >= 0)
    row_of_op = np.full(len(trace.host_ops) + 1, NONE, np.int64)  # the last for "no operator"
    waiting = np.flatnonzero((told.kernel < 0) & (told.op >= 0))
    row_of_op[told.op[waiting]] = waiting
    named = trace.named(is_collective_kernel)[kernels.name] if len(kernels) else np.zeros(0, bool)
    free = np.setdiff1d(np.flatnonzero(named), told.kernel[direct])
    at, row = kernels.op[free].astype(np.int64), np.full(len(free), NONE, np.int64)
    while (at >= 0).any():
        row = np.where((row < 0) & (at >= 0), row_of_op[at], row)
        at = np.where((at >= 0) & (row < 0), trace.host_ops.parent[at], NONE) if len(trace.host_ops) else at
    joined = row >= 0
    rows = np.concatenate([direct, row[joined]])
    return rows, np.concatenate([told.kernel[direct].astype(np.int64), free[joined]])


def _untimed(trace: Trace, timed: Int64s) -> int:
    """How many described collectives have no kernel in the trace; waiting for one is described too and has none."""
    if not len(trace.collectives):
        return 0
    known = np.array([kind_of_call(c.kind) != KINDS[-1] for c in trace.collective_calls], bool)
    without = np.setdiff1d(np.arange(len(trace.collectives)), timed)
    return int(known[trace.collectives.call[without]].sum())


def _payloads(trace: Trace) -> tuple[Int64s, Int64s]:
    """Bytes in and out of each distinct call, [calls]; -1 where not known."""
    calls = trace.collective_calls
    return (
        np.array([payload_bytes(c.in_elements, c.dtype) for c in calls], np.int64),
        np.array([payload_bytes(c.out_elements, c.dtype) for c in calls], np.int64),
    )


def _summed(size: Int64s, served: Int64s, kernel: Int64s, kernels: int) -> Int64s:
    """Bytes of all the calls that each kernel serves; -1 where one of them is not known, or none is."""
    total, known = np.zeros(kernels, np.int64), np.zeros(kernels, bool)
    known[served] = True
    known[served[size < 0]] = False
    np.add.at(total, served, size)
    return np.where(known[kernel], total[kernel], NONE)


def _kinds(trace: Trace, call: Int64s, op: Int64s, name: Int32s, issued: Int64s) -> Int32s:
    """By the description, else by the operator that issued it, the mark around that, or the kernel's name."""
    unknown = KINDS.index("unknown")
    kinds = np.full(len(call), unknown, np.int32)
    if trace.collective_calls:
        described = np.array([KINDS.index(kind_of_call(c.kind)) for c in trace.collective_calls], np.int32)
        kinds = np.where(call >= 0, described[call], unknown).astype(np.int32)
    for source in (_kinds_of_operators(trace, op), _kinds_of_marks(trace, issued), _kinds_of_kernels(trace, name)):
        kinds = np.where(kinds == unknown, source, kinds)
    return kinds


def _kinds_of_kernels(trace: Trace, name: Int32s) -> Int32s:
    return np.array([KINDS.index(kind_of_kernel(n)) for n in trace.names], np.int32)[name]


def _kinds_of_marks(trace: Trace, issued: Int64s) -> Int32s:
    """Kind by the backend's mark ("nccl:all_to_all") on the host around each issue."""
    marks = trace.annotations
    unknown = KINDS.index("unknown")
    found = np.full(len(issued), unknown, np.int32)
    named = trace.named(lambda name: name.startswith(MARKS))
    rows = np.flatnonzero(named[marks.name] & ~marks.on_device) if len(marks) else np.zeros(0, np.int64)
    if not len(rows):
        return found
    rows = rows[np.argsort(marks.start_ns[rows], kind="stable")]
    at = np.searchsorted(marks.start_ns[rows], issued, side="right") - 1
    inside = (at >= 0) & (issued <= marks.end_ns[rows[at]])
    kinds = np.array([KINDS.index(kind_of_call(n)) for n in trace.names], np.int32)[marks.name[rows]]
    return np.where(inside, kinds[at], unknown).astype(np.int32)


def _kinds_of_operators(trace: Trace, op: Int64s) -> Int32s:
    """Kind of the innermost operator above each that says one."""
    found = np.full(len(op), KINDS.index("unknown"), np.int32)
    if not len(trace.host_ops):
        return found
    said = np.array([NONE if (k := kind_of_operator(n)) is None else KINDS.index(k) for n in trace.names], np.int32)
    at = op.copy()
    while (at >= 0).any():
        kind = np.where(at >= 0, said[trace.host_ops.name[at]], NONE)
        found[kind >= 0] = kind[kind >= 0]
        at = np.where((at >= 0) & (kind < 0), trace.host_ops.parent[at], NONE)
    return found


def _issued(trace: Trace, launch: Int64s, op: Int64s) -> Int64s:
    """When each was launched, else when its operator began; -1 where neither is known."""
    issued = np.full(len(launch), NONE, np.int64)
    issued[op >= 0] = trace.host_ops.start_ns[op[op >= 0]]
    issued[launch >= 0] = trace.runtime_calls.start_ns[launch[launch >= 0]]
    return issued


def _on_host(trace: Trace) -> _Found:
    """Collectives without kernels: as Gloo's threads ran them, else as the operators that issued them."""
    gloo = trace.named(lambda name: name.startswith(GLOO))
    marks = trace.annotations
    rows = np.flatnonzero(gloo[marks.name] & ~marks.on_device) if len(marks) else np.zeros(0, np.int64)
    if len(rows):
        return _of_gloo(trace, rows[np.argsort(marks.start_ns[rows], kind="stable")])
    told = trace.collectives.where(trace.collectives.op >= 0)
    into, out = _payloads(trace)
    kinds = np.array([KINDS.index(kind_of_call(c.kind)) for c in trace.collective_calls], np.int32)
    start = trace.host_ops.start_ns[told.op]
    return _Found(
        call=told.call.astype(np.int64), kind=kinds[told.call], stream=np.full(len(told), NONE, np.int64),
        sequence=told.sequence, in_bytes=into[told.call], out_bytes=out[told.call],
        in_switch=np.zeros(len(told), bool), start_ns=start, end_ns=trace.host_ops.end_ns[told.op], issued_ns=start,
    )  # fmt: skip


def _of_gloo(trace: Trace, rows: Int64s) -> _Found:
    """What Gloo's threads ran, annotation by annotation; the trace says neither groups nor sizes."""
    marks = trace.annotations
    kinds = np.array([KINDS.index(kind_of_call(n)) for n in trace.names], np.int32)[marks.name[rows]]
    nothing = np.full(len(rows), NONE, np.int64)
    return _Found(
        call=nothing, kind=kinds, stream=nothing, sequence=nothing, in_bytes=nothing, out_bytes=nothing,
        in_switch=np.zeros(len(rows), bool), start_ns=marks.start_ns[rows], end_ns=marks.end_ns[rows],
        issued_ns=_issued_to_gloo(trace, kinds, marks.start_ns[rows]),
    )  # fmt: skip


def _issued_to_gloo(trace: Trace, kinds: Int32s, start: Int64s) -> Int64s:
    """Start of the operator that issued each: Gloo begins in order of issue, so the n-th of a kind is the n-th."""
    issued = start.copy()
    said = np.array([NONE if (k := kind_of_operator(n)) is None else KINDS.index(k) for n in trace.names], np.int32)
    of_op = said[trace.host_ops.name] if len(trace.host_ops) else np.zeros(0, np.int32)
    for kind in np.unique(kinds):
        starts = np.sort(trace.host_ops.start_ns[of_op == kind])
        ran = kinds == kind
        if len(starts) == int(ran.sum()) and (starts <= start[ran]).all():
            issued[ran] = starts
    return issued


def _step_numbers(steps: Steps, found: _Found) -> Int64s:
    """Number of the step that issued each. Where some launches are recorded, the others lie before the recording."""
    instants = found.issued_ns if (found.issued_ns >= 0).any() else found.start_ns
    row = step_of(steps, instants)
    return np.where((row >= 0) & (instants >= 0), steps.number[row], NONE)


def _groups(trace: Trace, found: _Found, rank: int) -> tuple[tuple[Group, ...], Int32s]:
    """The distinct groups, and each collective's."""
    numbers: dict[Group, int] = {}
    keys = np.stack([found.call, found.stream, found.kind.astype(np.int64)])
    distinct, inverse = np.unique(keys, axis=1, return_inverse=True)
    of_key = np.zeros(distinct.shape[1], np.int32)
    for index, (call, stream, kind) in enumerate(distinct.T.tolist()):
        told = trace.collective_calls[call] if call >= 0 else None
        group = _group(told, stream, rank, KINDS[kind])
        of_key[index] = numbers.setdefault(group, len(numbers))
    return tuple(numbers), of_key[inverse.reshape(-1)]


def _group(call: CollectiveCall | None, stream: int, rank: int, kind: str) -> Group:
    if call is None or (call.group is None and call.group_ranks is None):
        size = call.group_size if call is not None else None
        return Group(None, None, size, stream, _pair(call, rank, kind))
    size = call.group_size or (len(call.group_ranks) if call.group_ranks else None)
    return Group(call.group, call.group_ranks, size, None, _pair(call, rank, kind))


def _pair(call: CollectiveCall | None, rank: int, kind: str) -> tuple[int, int] | None:
    if kind != "send_recv" or call is None or call.peer is None or call.peer < 0:
        return None
    return (call.peer, rank) if "recv" in call.kind.lower() else (rank, call.peer)


def _steps(trace: Trace, steps: Steps, found: _Found) -> RankSteps:
    """Each step's time by what ran, exact."""
    communication = union(found.start_ns, found.end_ns)
    compute = _compute(trace) if trace.on_device else _host_compute(trace)
    exposed = difference(communication, compute)
    duration = steps.duration_ns
    of_compute, of_exposed = _within(compute, steps), _within(exposed, steps)
    return RankSteps(
        number=steps.number,
        start_ns=steps.start_ns + trace.start_unix_ns,
        end_ns=steps.end_ns + trace.start_unix_ns,
        compute_ns=of_compute,
        communication_ns=_within(communication, steps),
        exposed_communication_ns=of_exposed,
        idle_ns=duration - of_compute - of_exposed,
    )


def _within(busy: Intervals, steps: Steps) -> Int64s:
    spans = zip(steps.start_ns.tolist(), steps.end_ns.tolist(), strict=True)
    return np.array([clip(busy, start, end).length_ns for start, end in spans], np.int64)


def _compute(trace: Trace) -> Intervals:
    """When a kernel that does not communicate runs, or a copy."""
    kernels, copies = trace.kernels, trace.copies
    other = np.ones(len(kernels), bool)
    if len(kernels):
        other &= ~trace.named(is_collective_kernel)[kernels.name]
        other[trace.collectives.kernel[trace.collectives.kernel >= 0]] = False
    starts = np.concatenate([kernels.start_ns[other], copies.start_ns])
    return union(starts, np.concatenate([kernels.end_ns[other], copies.end_ns]))


def _host_compute(trace: Trace) -> Intervals:
    """When any thread is inside an operator and not inside a collective it calls."""
    ops = trace.host_ops
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, np.ones(len(ops), bool))
    own = ~trace.named(is_collective)[ops.name[rows]] if len(rows) else np.zeros(0, bool)
    return union(starts[own], ends[own])
