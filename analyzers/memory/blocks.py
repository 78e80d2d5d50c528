"""Which blocks of memory were there, from when to when? Allocations paired with what gave them back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.trace import Allocations, Int32s, Int64s, Mask, Table

BEFORE = -(2**62)  # when a block was allocated that was there when the recording began
AFTER = 2**62  # when a block is given back that is there when the recording ends


@dataclass(frozen=True, eq=False)
class Blocks(Table):
    """Pieces of memory of one device, in the order in which they were allocated."""

    bytes: Int64s
    begin_ns: Int64s  # BEFORE where it was there already
    end_ns: Int64s  # AFTER where it stays
    taken: Int32s  # row of the allocation, -1 where it was there already
    freed: Int32s  # row of the allocation that gave it back, -1 where it stays
    op: Int32s  # host operator that allocated it, -1 for none

    def alive(self, instant_ns: int) -> Mask:
        """Which of them are there at an instant; one that is given back then is gone."""
        there: Mask = (self.begin_ns <= instant_ns) & (self.end_ns > instant_ns)
        return there


def main_device(table: Allocations) -> int:
    """The device that is looked at: the accelerator with most memory in use, -1 for the host; where there is both,
    an accelerator's memory is what runs out first."""
    devices = [d for d in np.unique(table.device).tolist() if d >= 0]
    return max(devices, key=lambda d: int(np.abs(table.bytes[table.device == d]).sum()), default=-1)


def blocks(table: Allocations, device: int) -> Blocks | None:
    """The blocks of a device; None where addresses were not recorded.

    The event that follows an allocation at the same address ends it, also where that is another allocation: the one
    that gave it back was lost. What is given back and was never allocated was there before.
    """
    rows = np.flatnonzero(table.device == device)
    if (table.address[rows] < 0).any():
        return None
    order = rows[np.lexsort((rows, table.address[rows]))]
    address, taken = table.address[order], table.bytes[order] > 0
    same = np.append(address[1:] == address[:-1], False)[: len(order)]
    following = np.append(order[1:], -1)[: len(order)]
    ender = np.where(same, following, -1)[taken]
    preceded = np.append(False, same[:-1] & taken[:-1])[: len(order)]
    there = order[~taken & ~preceded]
    return _table(table, order[taken], ender, there)


def _table(table: Allocations, begun: Int64s, ender: Int64s, there: Int64s) -> Blocks:
    """Blocks from the rows that allocated them and ended them, and the rows that gave back what was there before."""
    end = np.where(ender >= 0, table.at_ns[ender], AFTER) if len(table) else np.empty(0, np.int64)
    found = Blocks(
        bytes=np.concatenate([table.bytes[begun], -table.bytes[there]]),
        begin_ns=np.concatenate([table.at_ns[begun], np.full(len(there), BEFORE)]),
        end_ns=np.concatenate([end, table.at_ns[there]]),
        taken=np.concatenate([begun, np.full(len(there), -1)]).astype(np.int32),
        freed=np.concatenate([ender, there]).astype(np.int32),
        op=np.concatenate([table.op[begun], np.full(len(there), -1, np.int32)]),
    )
    return found.where(np.argsort(found.begin_ns, kind="stable"))
