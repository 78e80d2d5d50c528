"""What does an allocator's snapshot say of memory: the peak of its history, who held it, and what lies in pieces?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from probe.analyzers.memory.blocks import Blocks, blocks
from probe.analyzers.memory.levels import POINTS
from probe.readers.allocator_snapshot import History, Snapshot
from probe.results.analysis import PARTS, Analysis, Source, StepTimes, Throughput, TraceQuality, Utilisation
from probe.results.memory_use import CATEGORIES, Fragmentation, Holder, Memory, MemoryTimeline
from probe.trace import Allocations, Int64s
from probe.units import format_bytes

HOLDERS = 12
ONLY_MEMORY = "an allocator's snapshot holds memory only: nothing is known of time"
NO_CATEGORIES = "a snapshot does not tell what blocks are for; holders are the lines of the program that took them"
NO_HISTORY = (
    "no history was recorded (torch.cuda.memory._record_memory_history): the peak is what was in use at the end"
)


def snapshot_memory(found: Snapshot) -> Memory:
    """The memory of one device's snapshot; levels are counted back from what was in use at its end."""
    told = _history(found)
    level = _levels(told.bytes, int(found.live.bytes.sum()))
    peak = int(np.argmax(level))
    unknown: dict[str, int | None] = dict.fromkeys(CATEGORIES)
    reserved = _reserved(found)
    return Memory(
        peak_bytes=int(level[peak]),
        by_category=unknown,
        peak_at=_peak_at(found, peak),
        device=f"device {found.device}",
        reserved_peak_bytes=int(reserved.max()),
        holders=_holders(found, peak),
        timeline=_timeline(told.at_ns, level),
        fragmentation=_fragmentation(found),
        notes=(NO_CATEGORIES, _pieces(found), *(() if len(told) else (NO_HISTORY,))),
    )


def snapshot_analysis(path: str, memory: Memory, said: tuple[str, ...]) -> Analysis:
    """The analysis of a snapshot: memory, and nothing of time."""
    nothing: dict[str, float | None] = dict.fromkeys(("step", *PARTS))
    return Analysis(
        source=Source(path, "snapshot", memory.device, "cuda", 1, None, {}),
        quality=TraceQuality(0, 0, ()),
        ceilings=None,
        steps=StepTimes(0, None, None, None, None, None, Throughput(None, None)),
        bound="unknown",
        time_s=nothing,
        time_interval_s=dict.fromkeys(nothing),
        utilisation=Utilisation(None),
        ops=(),
        findings=(),
        ranks=(),
        memory=memory,
        warnings=(ONLY_MEMORY, *said),
    )


def _levels(changes: Int64s, end: int) -> Int64s:
    """Bytes before the first event and after each, [events + 1], given those after the last."""
    after: Int64s = end - np.append(np.cumsum(changes[::-1])[::-1], 0)
    return after


def _reserved(found: Snapshot) -> Int64s:
    return _levels(found.history.bytes[found.history.of_driver == 1], found.reserved_bytes)


def _peak_at(found: Snapshot, peak: int) -> str:
    """The line of the program that took the last block before the peak."""
    told = _history(found)
    if peak == 0:
        return "at the beginning of the history" if len(told) else "when the snapshot was taken"
    site = found.sites[int(told.site[peak - 1])]
    return f"event {peak} of {len(told)}{f', {site}' if site else ''}"


def _holders(found: Snapshot, peak: int) -> tuple[Holder, ...]:
    """Lines of the program by what they held at the peak."""
    paired = _paired(found)
    alive = paired.alive(peak - 1)
    throughout = ~np.isin(found.live.address, _history(found).address[paired.taken[paired.freed < 0]])
    sizes = np.concatenate([paired.bytes[alive], found.live.bytes[throughout]])
    taken = np.append(_history(found).site, 0)[paired.taken[alive]]  # 0 at -1: taken before the history
    sites = np.concatenate([taken, found.live.site[throughout]])
    rows = [
        Holder(
            "other",
            found.sites[site] or None,
            None,
            "outside",
            int((sites == site).sum()),
            int(sizes[sites == site].sum()),
        )
        for site in np.unique(sites).tolist()
    ]
    return tuple(sorted(rows, key=lambda holder: -holder.bytes)[:HOLDERS])


def _history(found: Snapshot) -> History:
    """What happened to blocks."""
    return found.history.where(found.history.of_driver == 0)


def _paired(found: Snapshot) -> Blocks:
    """The blocks of the history; their times are numbers of events."""
    told = _history(found)
    none = np.full(len(told), -1)
    place = none.astype(np.int32)
    table = Allocations(np.arange(len(told)), told.address, told.bytes, none, none, np.abs(place) - 1, place, place)
    paired = blocks(table, 0)
    assert paired is not None  # addresses are there
    return paired


def _timeline(at_ns: Int64s, level: Int64s) -> MemoryTimeline | None:
    """The level, thinned to the highest of each stretch of events."""
    if len(at_ns) < 2:
        return None
    after = level[1:]
    edges = np.linspace(0, len(after), min(POINTS, len(after)) + 1).astype(np.int64)
    rows = np.array([a + int(np.argmax(after[a:b])) for a, b in pairwise(edges.tolist())])
    at_s = (at_ns[rows] - at_ns[0]) / 1e9
    sizes = tuple(after[rows].tolist())
    return MemoryTimeline(tuple(at_s.tolist()), sizes, None, {"other": sizes})


def _fragmentation(found: Snapshot) -> Fragmentation | None:
    used = found.used_bytes
    return Fragmentation(found.reserved_bytes, used, found.reserved_bytes / used) if used else None


def _pieces(found: Snapshot) -> str:
    free = found.reserved_bytes - found.used_bytes
    return (
        f"{format_bytes(free)} of {format_bytes(found.reserved_bytes)} reserved were free when the snapshot was taken, "
        f"the largest piece {format_bytes(found.largest_free_bytes)}"
    )
