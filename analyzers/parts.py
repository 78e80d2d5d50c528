"""What a step's time was spent on: every instant counted once, on the thing the step waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.analysis import PARTS, Bound
from probe.analyzers.classify import DISPATCHES
from probe.analyzers.op_table import OpGroups
from probe.analyzers.ranks.kinds import is_collective_kernel
from probe.intervals import Intervals, difference, length_before, parted, union
from probe.trace import DeviceWork, Int32s, Int64s, Mask, RuntimeCalls, Steps, Trace
from probe.units import format_time

LOADER = "enumerate(DataLoader)"  # the start of the name that torch gives to the wait for a batch
# Recording one operator with shapes costs about this at the most (measured: 1.3 to 2.5 µs on a 3 GHz Zen 3 core). What
# a recorded step takes longer than that is the machine's noise, and no part's own.
MOST_PER_CALL_S = 3e-6


@dataclass(frozen=True, eq=False)
class PartTable:
    """Seconds per part and step, [parts, steps], in the order of PARTS."""

    seconds: npt.NDArray[np.float64]

    def of(self, part: str) -> npt.NDArray[np.float64]:
        """One part's seconds in each step, [steps]."""
        row: npt.NDArray[np.float64] = self.seconds[PARTS.index(part)]
        return row


def partition(trace: Trace, steps: Steps, groups: OpGroups, bounds: tuple[Bound, ...], dispatch_s: float) -> PartTable:
    """Split each step. bounds: the class of each group; dispatch_s: cost of dispatching one operator."""
    gap_ns = int(DISPATCHES * dispatch_s * 1e9)
    claim = _device_claims if trace.on_device else _host_claims
    seconds = np.zeros((len(PARTS), len(steps)))
    free = union(steps.start_ns, steps.end_ns)
    for part, intervals in claim(trace, groups, bounds, gap_ns):  # one after another: each is large
        taken, free = parted(free, intervals)
        seconds[PARTS.index(part)] += _in_steps(taken, steps)
    seconds[PARTS.index("idle")] += _in_steps(free, steps)
    return PartTable(seconds)


def _in_steps(covered: Intervals, steps: Steps) -> npt.NDArray[np.float64]:
    """Seconds that are covered in each step, [steps]."""
    return np.asarray((length_before(covered, steps.end_ns) - length_before(covered, steps.start_ns)) / 1e9)


def main_thread(trace: Trace) -> int:
    """The thread that runs the steps: the one that marks them, else the one whose operators take longest."""
    if trace.step_thread >= 0:
        return trace.step_thread
    if not len(trace.host_ops):
        return 0
    return int(np.argmax(np.bincount(trace.host_ops.thread, weights=trace.host_ops.self_ns.astype(float))))


def _device_claims(
    trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], gap_ns: int
) -> Iterator[tuple[str, Intervals]]:
    """Device work by its class, then exposed communication and copies, then the causes of an idle device."""
    kernels, copies = trace.kernels, trace.copies
    kinds = _work_bounds(trace, kernels, groups, bounds)
    for part in ("compute", "memory", "latency", "overhead", "unknown", "communication"):
        yield part, _intervals(kernels, kinds == part)
    yield "memory", _intervals(copies, ~copies.crosses_bus)
    yield "host", _intervals(copies, copies.crosses_bus)
    yield from _idle_causes(trace, gap_ns)


def _work_bounds(trace: Trace, work: DeviceWork, groups: OpGroups, bounds: tuple[Bound, ...]) -> npt.NDArray[np.str_]:
    """The class of each kernel: its operator's; a kernel of a collective is communication whoever launched it.

    A kernel whose launch was not recorded does the work of an earlier step: it takes the class that most kernels of
    its name have here.
    """
    kinds = np.array([bounds[g] if g >= 0 else "" for g in groups.of_kernel.tolist()], dtype="<U16")
    for name in np.unique(work.name[kinds == ""]):
        same = kinds[(work.name == name) & (kinds != "")]
        values, counts = np.unique(same, return_counts=True)
        kinds[(work.name == name) & (kinds == "")] = values[np.argmax(counts)] if len(values) else "unknown"
    named = trace.named(is_collective_kernel)
    kinds[named[work.name]] = "communication"
    return kinds


def _intervals(work: DeviceWork, rows: Mask) -> Intervals:
    return union(work.start_ns[rows], work.end_ns[rows])


def _idle_causes(trace: Trace, gap_ns: int) -> Iterator[tuple[str, Intervals]]:
    """Why the device has nothing to do: what the threads that feed it were doing at the time.

    Synchronising, allocating and launching are overhead, and so is the dispatching between launches; an operator that
    is busy for longer without a launch computes on the host.
    """
    yield "host", loader_intervals(trace)
    calls, ops = trace.runtime_calls, trace.host_ops
    yield "overhead", union(calls.start_ns, calls.end_ns)
    feeding = np.isin(ops.thread, _feeding_threads(trace))
    short, computing = _split(exclusive(ops.start_ns, ops.end_ns, ops.parent, feeding)[:2], calls, gap_ns)
    yield "overhead", short
    yield "host", computing
    first = np.append(ops.start_ns[feeding], calls.start_ns)
    last = np.append(ops.end_ns[feeding], calls.end_ns)
    yield from _gaps(union(first, last), trace, gap_ns)


def _split(pieces: tuple[Int64s, Int64s], calls: RuntimeCalls, gap_ns: int) -> tuple[Intervals, Intervals]:
    """Operators' own time, (starts, ends), that is dispatching, and that is computing: long, and nothing launched."""
    starts, ends = pieces
    begun = np.sort(calls.start_ns)
    computing = ends - starts > gap_ns
    long = np.flatnonzero(computing)
    computing[long] = np.searchsorted(begun, ends[long]) == np.searchsorted(begun, starts[long])
    return union(starts[~computing], ends[~computing]), union(starts[computing], ends[computing])


def _feeding_threads(trace: Trace) -> npt.NDArray[np.int32]:
    """The thread that steps, and those that launch device work (the backward pass has its own)."""
    launched = trace.kernels.launch[trace.kernels.launch >= 0]
    return np.unique(np.append(trace.runtime_calls.thread[launched], main_thread(trace)).astype(np.int32))


def _gaps(busy: Intervals, trace: Trace, gap_ns: int) -> Iterator[tuple[str, Intervals]]:
    """Time between operators: short gaps are dispatching, long ones Python, I/O or waiting."""
    if not len(busy):
        return
    start, end = trace.span_ns
    gaps = difference(union([start], [end]), busy)
    short = (gaps.ends - gaps.starts) <= gap_ns
    yield "overhead", union(gaps.starts[short], gaps.ends[short])
    yield "host", union(gaps.starts[~short], gaps.ends[~short])


def loader_intervals(trace: Trace) -> Intervals:
    """When the loop waits for its data loader, as far as torch marks it."""
    named = trace.named(lambda name: name.startswith(LOADER))
    marks, ops = trace.annotations, trace.host_ops
    marked = named[marks.name] & ~marks.on_device if len(marks) else np.zeros(0, bool)
    called = named[ops.name] if len(ops) else np.zeros(0, bool)
    return union(
        np.concatenate([marks.start_ns[marked], ops.start_ns[called]]),
        np.concatenate([marks.end_ns[marked], ops.end_ns[called]]),
    )


def _host_claims(
    trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], gap_ns: int
) -> Iterator[tuple[str, Intervals]]:
    """The main thread's operators by their class, innermost first, then its gaps."""
    thread = main_thread(trace)
    ops = trace.host_ops
    yield "host", loader_intervals(trace)
    mine = ops.thread == thread
    kinds = groups.of_calls(bounds)
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, mine)
    for part in ("compute", "memory", "latency", "overhead", "communication", "host", "unknown"):
        own = kinds[rows] == part
        yield part, union(starts[own], ends[own])
    busy = union(ops.start_ns[mine], ops.end_ns[mine])
    yield from _gaps(busy, trace, gap_ns)


def exclusive(start: Int64s, end: Int64s, parent: npt.NDArray[np.int32], keep: Mask) -> tuple[Int64s, Int64s, Int32s]:
    """The pieces of each kept interval outside its children: (starts, ends, row of each piece).

    Rows are sorted by start with parents before children, as HostOps are. A piece begins at its interval's start or at
    a child's end, and ends at the next child's start or at its interval's end.
    """
    rows = np.flatnonzero(keep).astype(np.int32)
    nested = rows[parent[rows] >= 0]
    owners = np.concatenate([rows, parent[nested]])
    begins, order = _by_owner(owners, np.concatenate([start[rows], end[nested]]))
    stops, _ = _by_owner(owners, np.concatenate([end[rows], start[nested]]))
    return begins, stops, owners[order]


def _by_owner(owners: Int32s, instants: Int64s) -> tuple[Int64s, Int64s]:
    """The instants sorted by owner and time, and their order."""
    order = np.lexsort((instants, owners))
    return instants[order], order


def recording_shares(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], dispatch_s: float) -> dict[str, float]:
    """In which parts the profiler's own work lies: recording an operator lengthens what encloses its call.

    That is the operator that made the call, or the gap before it. On a device it is the host's dispatching.
    """
    thread = main_thread(trace)
    rows = np.flatnonzero((trace.host_ops.thread == thread) & (groups.step_of_op >= 0))
    if trace.on_device or not len(rows):
        return {"overhead": 1.0}
    parent = trace.host_ops.parent[rows]
    kinds = groups.of_calls(bounds)
    top = rows[parent < 0]
    pause = np.diff(trace.host_ops.start_ns[top], prepend=trace.host_ops.start_ns[top[:1]])
    pause[1:] -= (trace.host_ops.end_ns - trace.host_ops.start_ns)[top[:-1]]
    long_gaps = int((pause > DISPATCHES * dispatch_s * 1e9).sum())
    names, counts = np.unique(kinds[parent[parent >= 0]], return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    found["host"] = found.get("host", 0) + long_gaps
    found["overhead"] = found.get("overhead", 0) + len(top) - long_gaps
    return {part: count / len(rows) for part, count in found.items()}


def without_profiler(
    mean: dict[str, float], bare_s: float | None, shares: dict[str, float], calls: float
) -> tuple[dict[str, float], str | None]:
    """The parts of a step that ran without the profiler, and how they were corrected.

    What the profiler added, and no more than so many operator calls can have cost, is taken from the parts in the given
    shares, as far as each can carry it; what is left over, or a bare step that took longer than the recorded ones, is
    spread over all parts in proportion.
    """
    total = sum(mean.values())
    if bare_s is None or total <= 0:
        return mean, None
    excess = min(max(total - bare_s, 0.0), MOST_PER_CALL_S * calls)
    taken = {part: min(shares.get(part, 0.0) * excess, value) for part, value in mean.items()}
    reduced = {part: value - taken[part] for part, value in mean.items()}
    rest = sum(reduced.values())
    scale = bare_s / rest if rest > 0 else 1.0
    corrected = {part: value * scale for part, value in reduced.items()}
    return corrected, _correction(sum(taken.values()), scale)


def _correction(taken_s: float, scale: float) -> str | None:
    removed = f"{format_time(taken_s)} of the profiler's own time were taken out" if taken_s else ""
    scaled = f"all parts were scaled by {scale:.3f}" if abs(scale - 1) > 1e-3 else ""
    said = ", ".join(t for t in (removed, scaled) if t)
    return f"parts are for the bare step: {said}" if said else None
