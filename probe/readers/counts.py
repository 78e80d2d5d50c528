"""How much of a trace, or of the part of it that was kept, is not as it should be, and what must be said of it?

Two kinds of counts: those of the file (events, dropped, clamped, unknown devices), which its reader knows, and those
of rows, which are counted here. Of a part they are counted over its rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from probe.readers.step_marks import marked_steps
from probe.trace import DeviceWork, Int64s, Mask, Quality, RuntimeCalls, Trace

_REPLAYS = ("cudaGraphLaunch", "cuGraphLaunch", "hipGraphLaunch")  # nsys appends a version: cudaGraphLaunch_v10000
_LAUNCHES = ("cudaLaunch", "cuLaunch", "hipLaunch", "hipModuleLaunch", "hipExtModuleLaunch", "hipExtLaunch")
_HOST_FUNCTION = "LaunchHostFunc"  # cudaLaunchHostFunc: what it launches runs on the host and is not recorded
_CAPTURE_BEGINS, _CAPTURE_ENDS = "StreamBeginCapture", "StreamEndCapture"


@dataclass(frozen=True)
class Rows:
    """Which rows of a trace are kept."""

    calls: Mask | slice
    kernels: Mask | slice
    copies: Mask | slice


_ALL = Rows(slice(None), slice(None), slice(None))


def counted(trace: Trace) -> Quality:
    """The quality of a whole trace: its file's counts and those of its rows."""
    return counted_part(trace, trace, _ALL)


def counted_part(part: Trace, whole: Trace, kept: Rows) -> Quality:
    """The file's counts, and those of the rows of `part`, which are the rows `kept` of `whole`.

    Whether a call's work was recorded, and what launched a piece of work, is asked of the whole.
    """
    work = (part.kernels, part.copies)
    replays = whole.named(lambda name: name.startswith(_REPLAYS))
    rows = ((whole.kernels, kept.kernels), (whole.copies, kept.copies))
    return replace(
        part.quality,
        unlaunched=sum(int((w.launch < 0).sum()) for w in work),
        unattributed=sum(int((w.op < 0).sum()) for w in work),
        replayed=sum(int(_replayed(w, whole.runtime_calls, replays)[of].sum()) for w, of in rows),
        unfinished=int(_unfinished(whole)[kept.calls].sum()),
        duplicated=_duplicates(part.host_ops.external_id),
        overlapping=sum(_overlaps(w) for w in work),
    )


def told_of_file(quality: Quality) -> Iterator[str]:
    """What a reader of the figures must know of the file."""
    if quality.truncated:
        yield f"the file is cut; {quality.events - quality.dropped} events before the cut were kept"
    if quality.dropped:
        yield f"{quality.dropped} of {quality.events} events could not be read and were left out"


def told_of_rows(trace: Trace) -> Iterator[str]:
    """What a reader of the figures must know of the rows of a whole trace."""
    yield from _told_of_steps(trace)
    if not len(trace.host_ops) and not trace.on_device:
        yield "no operators and no device activity among the events"
    if trace.device.kind in ("cuda", "rocm") and not trace.on_device:
        cut = trace.quality.truncated
        yield f"no device activity {'before the cut' if cut else 'recorded; record with ProfilerActivity.CUDA'}"
    if len(trace.runtime_calls):
        yield from _told_of_launches(trace, "the recording began")


def told_of_part(part: Trace, whole: Trace) -> Iterator[str]:
    """What a reader of the figures must know of the rows of `part`, which is a part of `whole`."""
    yield from _told_of_steps(part)
    if part.device.kind in ("cuda", "rocm") and not part.on_device:
        yield "no device activity in the part that was read"
    if len(whole.runtime_calls):
        yield from _told_of_launches(part, "the part that was read")


def _told_of_steps(trace: Trace) -> Iterator[str]:
    _, _, overlapping = marked_steps(trace.annotations, trace.names)
    if overlapping:
        yield f"{overlapping} steps begin inside an earlier step and were left out"


def _told_of_launches(trace: Trace, what: str) -> Iterator[str]:
    """Device work without its launch, with and without a number, where launches were recorded."""
    numbers = np.concatenate([w.correlation[w.launch < 0] for w in (trace.kernels, trace.copies)])
    early, unnumbered = int((numbers >= 0).sum()), int((numbers < 0).sum())
    if early:
        yield f"{early} device activities were launched before {what}"
    if unnumbered:
        yield f"{unnumbered} device activities have no correlation id: which call launched them is unknown"


def _replayed(work: DeviceWork, calls: RuntimeCalls, replays: Mask) -> Mask:
    """Which work the replay of a graph ran."""
    ran = work.graph >= 0
    launched = work.launch >= 0
    ran[launched] |= replays[calls.name[work.launch[launched]]]
    return ran


def _unfinished(trace: Trace) -> Mask:
    """Which calls launched work that did not end before the recording did, where any work was recorded."""
    calls, work = trace.runtime_calls, (trace.kernels, trace.copies)
    if not trace.on_device:
        return np.zeros(len(calls), bool)
    launches = trace.named(lambda name: name.startswith(_LAUNCHES) and _HOST_FUNCTION not in name)
    asked = launches[calls.name] & ~_captured(trace.names, calls) & (calls.correlation >= 0)
    done = np.concatenate([w.correlation for w in work])
    unfinished: Mask = asked & ~np.isin(calls.correlation, done)
    return unfinished


def _captured(names: tuple[str, ...], calls: RuntimeCalls) -> Mask:
    """Which calls were made while their thread captured a graph: they run nothing until the graph is replayed."""
    edge = np.array([(_CAPTURE_BEGINS in name) - (_CAPTURE_ENDS in name) for name in names], np.int64)
    if not edge.any():
        return np.zeros(len(calls), bool)
    depth = np.cumsum(edge[calls.name])
    first = np.searchsorted(calls.thread, calls.thread)  # row of the thread's first call
    inside: Mask = depth - (depth - edge[calls.name])[first] > 0
    return inside


def _duplicates(ids: Int64s) -> int:
    """How many ids occur a second time."""
    known = np.sort(ids[ids > 0])  # 0 is what is written where there is none
    return int((known[1:] == known[:-1]).sum())


def _overlaps(work: DeviceWork) -> int:
    """How much work began before earlier work on the same stream ended; work of no known stream is passed over."""
    order = np.lexsort((work.start_ns, work.stream, work.device))
    order = order[work.stream[order] >= 0]
    places = np.stack([work.device[order], work.stream[order]])
    edges = np.flatnonzero((places[:, 1:] != places[:, :-1]).any(axis=0)) + 1
    return sum(
        int((work.start_ns[rows[1:]] < np.maximum.accumulate(work.end_ns[rows])[:-1]).sum())
        for rows in np.split(order, edges)
    )
