"""Kineto's `[memory]` instants as columns: who was handed how much memory, or gave it back, and during which operator?

torch reports one for each block that its allocators hand out or take back. The CUDA allocator tells its totals since
the process began; the CPU's counts from the first recording of the process and knows no block that was handed out
while nothing recorded, so its totals are no level (torch 2.13, CPUAllocator.cpp). Until 2021 there were no addresses.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from probe.readers.events import NONE, MemoryEvents
from probe.readers.kineto_args import integer
from probe.readers.kineto_json import Args
from probe.readers.nesting import innermost
from probe.trace import Allocations, HostOps, Int64s

HOST = 0  # torch's number for devices of type CPU
_LARGEST_DEVICE = 2**31 - 1
_MOST_BYTES = 2**50  # sums of many stay within 64 bits

Columns: TypeAlias = tuple[Int64s, Int64s, Int64s, Int64s, Int64s]


def columns(args: list[Args]) -> Columns:
    """Address, size, totals and device of each event; size 0 where it is not a number."""
    on_host = _integers([a.device_type for a in args]) == HOST
    device = np.clip(_integers([a.device_id for a in args]), 0, _LARGEST_DEVICE)
    return (
        _integers([a.address for a in args]),
        _sizes([a.allocation_bytes for a in args]),
        _integers([a.allocated_bytes for a in args]),
        _integers([a.reserved_bytes for a in args]),
        np.where(on_host, NONE, device),
    )


def allocations(events: MemoryEvents, ops: HostOps, origin: int = 0) -> Allocations:
    """The events in order of time, each with the innermost operator that ran on its thread."""
    order = np.argsort(events.at_ns, kind="stable")
    at, thread = events.at_ns[order] - origin, events.thread[order]
    return Allocations(
        at_ns=at,
        address=events.address[order],
        bytes=events.bytes[order],
        allocated_bytes=events.allocated_bytes[order],
        reserved_bytes=events.reserved_bytes[order],
        device=events.device[order],
        thread=thread,
        op=innermost(ops, thread, at),
    )


def _integers(values: list[Any]) -> Int64s:
    """Recorded numbers, -1 for what is none."""
    return np.array([integer(value) for value in values], np.int64)


def _sizes(values: list[Any]) -> Int64s:
    """Recorded sizes in bytes, which may be negative; 0 for what is none or no memory holds."""
    return np.array([value if type(value) is int and abs(value) < _MOST_BYTES else 0 for value in values], np.int64)
