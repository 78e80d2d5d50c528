"""What is known of a trace's memory: the blocks of its main device, their categories and levels. The rules read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from probe.analyzers.memory.blocks import Blocks, blocks, main_device
from probe.analyzers.memory.categories import BACKWARD, categories, owners
from probe.analyzers.memory.levels import Levels, levels
from probe.analyzers.memory.phases import Phases, phases
from probe.analyzers.memory.resident import Resident, assumed_resident, fitted
from probe.results.memory_use import CATEGORIES, Category
from probe.trace import Int32s, Int64s, Mask, Steps, Trace

UNSEEN = (
    "a CPU's allocator tells nothing of what was there before the recording: the peak is what came on top of it; "
    "probe's own runs and recorded shapes tell it"
)


@dataclass(frozen=True, eq=False)
class MemoryUse:
    """The memory of one device, -1 for the host, over the recorded steps."""

    device: int
    blocks: Blocks
    kind: Int64s  # category of each block, into CATEGORIES
    owner: Int32s  # operator for which each block was allocated, -1 for none
    pieces: Phases
    levels: Levels
    held: Resident  # what is there throughout
    complete: bool  # whether the levels are those of all memory, not only of what came on top
    notes: tuple[str, ...]

    def of(self, *names: Category) -> Mask:
        """Which blocks are of the given categories."""
        return np.isin(self.kind, [CATEGORIES.index(name) for name in names])

    @property
    def peak_ns(self) -> int:
        """When most was in use."""
        return int(self.levels.at_ns[self.levels.peak()])

    @property
    def peak_bytes(self) -> int:
        """How much it was."""
        return int(self.levels.total[self.levels.peak()])

    @property
    def trains(self) -> bool:
        """Whether a step has a backward pass."""
        return bool((self.pieces.kind == BACKWARD).any())


def memory_use(trace: Trace, steps: Steps, resident: Mapping[int, Resident] | None = None) -> MemoryUse | None:
    """The memory of the trace's main device; None where allocations were not recorded, or without addresses.

    resident: what was there before, by device, where it is known.
    """
    table = trace.allocations
    if not len(table):
        return None
    device = main_device(table)
    found = blocks(table, device)
    if found is None:
        return None
    pieces = phases(trace, steps)
    known = (resident or {}).get(device) or assumed_resident(trace, pieces)
    before = _before(trace, device, found)
    held = known if before is None else fitted(known, before)
    kind = categories(trace, found, pieces, frozenset(held.parameters))
    complete = before is not None or bool(held.bytes)
    return MemoryUse(
        device=device,
        blocks=found,
        kind=kind,
        owner=owners(trace, found.op),
        pieces=pieces,
        levels=levels(table, device, found, kind, held, steps),
        held=held,
        complete=complete,
        notes=(*held.notes, *(() if complete else (UNSEEN,))),
    )


def _before(trace: Trace, device: int, found: Blocks) -> int | None:
    """Bytes that are there throughout, by the allocator's own total; None on the host, whose total is no level."""
    table = trace.allocations
    first = np.flatnonzero((table.device == device) & (table.allocated_bytes >= 0))
    if device < 0 or not len(first):
        return None
    row = int(first[0])
    return int(table.allocated_bytes[row] - table.bytes[row] - found.bytes[found.taken < 0].sum())
