"""How much memory was in use at every instant, in all and by category?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from probe.analyzers.memory.blocks import Blocks
from probe.analyzers.memory.resident import Resident
from probe.results.memory_use import CATEGORIES, MemoryTimeline
from probe.trace import Allocations, Int64s, Mask, Steps

POINTS = 400  # of a thinned timeline


@dataclass(frozen=True, eq=False)
class Levels:
    """Bytes in use after each event of one device, in order of time; `by_category` is [categories, events]."""

    at_ns: Int64s
    by_category: Int64s
    reserved: Int64s | None
    inside: Mask  # which events lie in the steps, and the last one before them

    @property
    def total(self) -> Int64s:
        """In use in all, [events]."""
        total: Int64s = self.by_category.sum(axis=0)
        return total

    def peak(self) -> int:
        """The event within the steps after which most is in use, the first of equals."""
        rows = np.flatnonzero(self.inside)
        return int(rows[np.argmax(self.total[rows])])

    def peak_with(self, scale: npt.NDArray[np.float64], without: Int64s | None = None) -> int:
        """The peak within the steps if each category took `scale` of what it does, less `without`, [events]."""
        scaled = scale @ self.by_category[:, self.inside]
        return int((scaled - (0 if without is None else without[self.inside])).max())


def levels(table: Allocations, device: int, found: Blocks, kind: Int64s, held: Resident, steps: Steps) -> Levels:
    """The level after each event. kind: the category of each block."""
    rows = np.flatnonzero(table.device == device)
    known = table.reserved_bytes[rows]
    return Levels(
        at_ns=table.at_ns[rows],
        by_category=_base(found, kind, held)[:, None] + _changes(len(table), found, kind)[:, rows].cumsum(axis=1),
        reserved=known if (known > 0).any() else None,
        inside=_inside(table.at_ns[rows], steps),
    )


def block_level(table: Allocations, device: int, found: Blocks, chosen: Mask) -> Int64s:
    """Bytes of the chosen blocks after each event of the device."""
    rows = np.flatnonzero(table.device == device)
    there = int(found.bytes[chosen & (found.taken < 0)].sum())
    changes = _changes(len(table), found.where(chosen), np.zeros(int(chosen.sum()), np.int64))
    level: Int64s = there + changes[0, rows].cumsum()
    return level


def _base(found: Blocks, kind: Int64s, held: Resident) -> Int64s:
    """Bytes by category before the first event: what stays throughout, and blocks that are given back later."""
    there = found.taken < 0
    base = np.bincount(kind[there], weights=found.bytes[there], minlength=len(CATEGORIES)).astype(np.int64)
    return base + np.array([held.bytes.get(category, 0) for category in CATEGORIES], np.int64)


def _changes(events: int, found: Blocks, kind: Int64s) -> Int64s:
    """What each event adds to each category, [categories, events]."""
    changes = np.zeros((len(CATEGORIES), events), np.int64)
    taken, freed = found.taken >= 0, found.freed >= 0
    np.add.at(changes, (kind[taken], found.taken[taken]), found.bytes[taken])
    np.add.at(changes, (kind[freed], found.freed[freed]), -found.bytes[freed])
    return changes


def _inside(at_ns: Int64s, steps: Steps) -> Mask:
    """Which events lie in the steps, and the last one before them, whose level they begin with."""
    inside = (at_ns >= steps.start_ns[0]) & (at_ns <= steps.end_ns[-1])
    before = int(np.searchsorted(at_ns, steps.start_ns[0])) - 1
    if before >= 0:
        inside[before] = True
    if not inside.any():
        inside[:] = True
    found: Mask = inside
    return found


def thinned(found: Levels, points: int = POINTS) -> MemoryTimeline:
    """At most so many instants: of each equal stretch of events the one at which most is in use, and both ends."""
    rows = np.flatnonzero(found.inside)
    total = found.total
    edges = np.linspace(0, len(rows), min(points, len(rows)) + 1).astype(np.int64)
    highest = {int(rows[a + np.argmax(total[rows[a:b]])]) for a, b in pairwise(edges.tolist())}
    chosen = np.array(sorted(highest | {int(rows[0]), int(rows[-1])}))
    reserved = None if found.reserved is None else tuple(found.reserved[chosen].tolist())
    by_category: dict[str, tuple[int, ...]] = {
        name: tuple(found.by_category[number, chosen].tolist())
        for number, name in enumerate(CATEGORIES)
        if found.by_category[number, chosen].any()
    }
    return MemoryTimeline(
        tuple((found.at_ns[chosen] / 1e9).tolist()), tuple(total[chosen].tolist()), reserved, by_category
    )
