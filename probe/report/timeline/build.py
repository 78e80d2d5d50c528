"""From traces to lanes: which event stands in which row, which operator of the analysis it is, what bounds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from probe.analyzers.operators.call_tree import depths
from probe.analyzers.operators.op_table import OpGroups, dtypes_text, group_operators, operators, shapes_text
from probe.analyzers.operators.steps import recorded_steps
from probe.report.palette import CLASSES
from probe.report.timeline.index import PYTHON, RANGE, Index, Lane, LaneKind, Uint8s, lane
from probe.results.analysis import Analysis
from probe.trace import MODULE_PREFIX, Int32s, Int64s, Trace

OVERHEAD, COMMUNICATION, UNKNOWN = (CLASSES.index(name) for name in ("overhead", "communication", "unknown"))
MOST_DEPTH = 24  # rows of nested operators or frames of one thread; what lies deeper is left out
LONGEST_NAME = 300
COLLECTIVE_KERNELS = ("nccl", "rccl", "msccl")


@dataclass(frozen=True)
class Recorded:
    """One rank's trace. `whole`: it is the one that was analysed, so that each group of it has its operator."""

    trace: Trace
    whole: bool = True


@dataclass
class _Names:
    """The names of all traces together, each once."""

    number: dict[str, int]

    def of(self, trace: Trace) -> Int32s:
        """The number of each of a trace's names, [names]."""
        return np.array(
            [self.number.setdefault(name[:LONGEST_NAME], len(self.number)) for name in trace.names] or [0], np.int32
        )


def build(recorded: Sequence[Recorded], analysis: Analysis) -> Index:
    """The timeline of the ranks' traces, on one clock where they say what time it was."""
    names = _Names({})
    origin = min((one.trace.start_unix_ns for one in recorded), default=0)
    many = len(recorded) > 1
    lanes: list[Lane] = []
    steps: list[tuple[int, int, int]] = []
    for number, one in enumerate(recorded):
        shift = one.trace.start_unix_ns - origin if many and one.trace.start_unix_ns and origin else 0
        rank = one.trace.rank if one.trace.rank is not None else number
        found = _lanes(one, analysis, names.of(one.trace), f"rank {rank} · " if many else "")
        lanes += [_shifted(row, shift) for row in found]
        if number == 0:
            marks = one.trace.steps
            rows = zip(marks.number.tolist(), marks.start_ns.tolist(), marks.end_ns.tolist(), strict=True)
            steps = [(n, start + shift, end + shift) for n, start, end in rows]
    begin = min((int(row.start_ns[0]) for row in lanes), default=0)
    end = max((int(row.until_ns[-1]) for row in lanes), default=begin + 1)
    first = recorded[0].trace.start_unix_ns if recorded else 0
    return Index(tuple(names.number), tuple(lanes), tuple(steps), (), begin, max(end, begin + 1), first)


def _shifted(row: Lane, by_ns: int) -> Lane:
    if not by_ns:
        return row
    return replace(row, start_ns=row.start_ns + by_ns, end_ns=row.end_ns + by_ns, until_ns=row.until_ns + by_ns)


def _lanes(one: Recorded, analysis: Analysis, names: Int32s, prefix: str) -> Iterator[Lane]:
    """The host's threads, that of the steps first, then the device's streams."""
    trace = one.trace
    groups = group_operators(trace, recorded_steps(trace))
    index_of = _index_of_groups(trace, groups, analysis, exact=one.whole)
    bounds = np.array([CLASSES.index(op.bound) for op in analysis.ops] or [UNKNOWN], np.uint8)
    nesting = (depths(trace.host_ops.parent).astype(np.int32), depths(trace.frames.parent).astype(np.int32))
    for thread in _threads(trace):
        yield from _thread_lanes(trace, thread, groups, index_of, bounds, names, prefix, nesting)
    yield from _stream_lanes(trace, groups, index_of, bounds, names, prefix)


def _threads(trace: Trace) -> list[int]:
    """Threads with something on them: that of the steps first, then the busiest."""
    counts = np.zeros(len(trace.threads) + 1, np.int64)
    for column in (trace.host_ops.thread, trace.runtime_calls.thread, trace.annotations.thread, trace.frames.thread):
        used = column[(column >= 0) & (column < len(trace.threads))]
        counts[: len(trace.threads)] += np.bincount(used, minlength=len(trace.threads))[: len(trace.threads)]
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda t: (t != trace.step_thread, -counts[t]))
    return [int(t) for t in order]


def _thread_lanes(
    trace: Trace, thread: int, groups: OpGroups, index_of: Int32s, bounds: Uint8s, names: Int32s, prefix: str,
    nesting: tuple[Int32s, Int32s],
) -> Iterator[Lane]:  # fmt: skip
    """Named ranges, operators by depth, calls of the runtime, frames of Python.

    nesting: how many others enclose each operator and each frame of the trace.
    """
    op_depth, frame_depth = nesting
    group = f"{prefix}thread {trace.threads[thread].id}"
    marks = trace.annotations
    rows = np.flatnonzero((marks.thread == thread) & ~marks.on_device & ~_modules(trace)[marks.name])
    depth = _nesting(marks.start_ns[rows], marks.end_ns[rows])
    yield from _rows(group, "ranges", "ranges", marks, rows, depth, names, RANGE)
    ops = trace.host_ops
    rows = np.flatnonzero(ops.thread == thread)
    op = index_of[groups.of_op[rows]] if len(rows) else np.empty(0, np.int32)
    code = np.where(op >= 0, bounds[op], np.uint8(UNKNOWN)).astype(np.uint8)
    yield from _rows(group, "operators", "ops", ops, rows, op_depth[rows], names, code, op)
    calls = trace.runtime_calls
    rows = np.flatnonzero(calls.thread == thread)
    yield from _rows(group, "runtime", "runtime", calls, rows, np.zeros(len(rows), np.int32), names, OVERHEAD)
    frames = trace.frames
    rows = np.flatnonzero(frames.thread == thread)
    yield from _rows(group, "Python", "python", frames, rows, frame_depth[rows], names, PYTHON)


def _modules(trace: Trace) -> npt.NDArray[np.bool_]:
    return trace.named(lambda name: name.startswith(MODULE_PREFIX))


def _rows(
    group: str, label: str, kind: LaneKind, table: object, rows: Int64s, depth: Int32s, names: Int32s,
    code: Uint8s | int, op: Int32s | None = None,
) -> Iterator[Lane]:  # fmt: skip
    """A lane for each depth of the given rows of a table."""
    start, end, name = (getattr(table, column)[rows] for column in ("start_ns", "end_ns", "name"))
    codes = np.full(len(rows), code, np.uint8) if isinstance(code, int) else code
    ops = np.full(len(rows), -1, np.int32) if op is None else op
    for level in range(min(int(depth.max()) + 1, MOST_DEPTH) if len(rows) else 0):
        at = depth == level
        columns = (start[at], end[at], names[name[at]], ops[at], codes[at])
        yield lane(group, label if level == 0 else "", kind, columns)


def _stream_lanes(
    trace: Trace, groups: OpGroups, index_of: Int32s, bounds: Uint8s, names: Int32s, prefix: str
) -> Iterator[Lane]:
    """A lane for each stream of each device: kernels and copies."""
    kernels, copies = trace.kernels, trace.copies
    joined = {
        column: np.concatenate([getattr(kernels, column), getattr(copies, column)])
        for column in ("start_ns", "end_ns", "name", "device", "stream")
    }
    of_copy = np.where(copies.op >= 0, groups.of_op[copies.op], -1) if len(copies) and len(groups.of_op) else None
    group = np.concatenate([groups.of_kernel, np.full(len(copies), -1) if of_copy is None else of_copy]).astype(
        np.int64
    )
    op = np.where(group >= 0, index_of[group], -1).astype(np.int32)
    code = np.where(op >= 0, bounds[op], np.uint8(UNKNOWN)).astype(np.uint8)
    code[_collective(trace)[joined["name"]]] = COMMUNICATION
    places = sorted(set(zip(joined["device"].tolist(), joined["stream"].tolist(), strict=True)))
    for device, stream in places:
        at = (joined["device"] == device) & (joined["stream"] == stream)
        columns = (joined["start_ns"][at], joined["end_ns"][at], names[joined["name"][at]], op[at], code[at])
        yield lane(f"{prefix}device {device}", f"stream {stream}", "device", columns)


def _collective(trace: Trace) -> npt.NDArray[np.bool_]:
    return trace.named(lambda name: name.lower().startswith(COLLECTIVE_KERNELS))


def _index_of_groups(trace: Trace, groups: OpGroups, analysis: Analysis, *, exact: bool) -> Int32s:
    """`Operator.index` of each group, -1 for none: by all its figures, else by name and arguments, [groups + 1].

    The last entry answers for group -1.
    """
    loose = {(op.name, op.shapes, op.dtypes): op.index for op in reversed(analysis.ops)}
    index = np.full(len(groups.name) + 1, -1, np.int32)
    for g, (name, signature) in enumerate(zip(groups.name, groups.signature, strict=True)):
        told = (shapes_text(signature), dtypes_text(signature)) if signature else (None, None)
        index[g] = loose.get((name, *told), -1)
    if exact:
        same = {(op.name, op.shapes, op.calls, op.self_s, op.device_s): op.index for op in analysis.ops}
        for g, op in operators(groups, recorded_steps(trace), trace.on_device):
            index[g] = same.get((op.name, op.shapes, op.calls, op.self_s, op.device_s), index[g])
    return index


def _nesting(start: Int64s, end: Int64s) -> Int32s:
    """A row for each range such that no two of a row overlap, the outer ones above, [n]."""
    depth = np.zeros(len(start), np.int32)
    free: list[int] = []  # end of the last range of each row
    for i in np.lexsort((-end, start)).tolist():
        row = next((r for r, until in enumerate(free) if until <= start[i]), len(free))
        if row == len(free):
            free.append(0)
        free[row] = int(end[i])
        depth[i] = row
    return depth
