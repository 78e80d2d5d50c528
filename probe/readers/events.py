"""What a reader finds in a file before anything is joined: unordered columns of events, one table a kind.

Times are integer nanoseconds on the file's own clock; numbers that are not recorded are -1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from probe.machine.device import Device
from probe.trace import (
    Annotations,
    CollectiveCall,
    Int32s,
    Int64s,
    LaunchShape,
    Mask,
    Signature,
    Table,
    Thread,
)

NONE = -1
T = TypeVar("T", bound=Table)


@dataclass(frozen=True, eq=False)
class OpEvents(Table):
    """Operator calls; the columns are those of HostOps."""

    name: Int32s
    thread: Int32s
    start_ns: Int64s
    end_ns: Int64s
    signature: Int32s
    external_id: Int64s
    sequence: Int64s
    record_function: Int64s
    forward_thread: Int64s


@dataclass(frozen=True, eq=False)
class RuntimeEvents(Table):
    """Runtime and driver calls."""

    name: Int32s
    thread: Int32s
    start_ns: Int64s
    end_ns: Int64s
    correlation: Int64s


@dataclass(frozen=True, eq=False)
class WorkEvents(Table):
    """Kernels, or copies and memsets, on a device."""

    name: Int32s
    start_ns: Int64s
    end_ns: Int64s
    device: Int32s
    stream: Int64s
    correlation: Int64s
    external_id: Int64s
    bytes: Int64s
    launch_shape: Int32s
    crosses_bus: Mask
    graph: Int64s


@dataclass(frozen=True, eq=False)
class CollectiveEvents(Table):
    """Descriptions of collectives, found on operators or on kernels."""

    call: Int32s
    key: Int64s  # external id of the operator, or correlation of the kernel
    on_device: Mask
    sequence: Int64s


@dataclass(frozen=True, eq=False)
class MemoryEvents(Table):
    """Memory handed out or taken back; the columns are those of Allocations."""

    thread: Int32s
    at_ns: Int64s
    address: Int64s
    bytes: Int64s
    allocated_bytes: Int64s
    reserved_bytes: Int64s
    device: Int32s


@dataclass(frozen=True, eq=False)
class FrameEvents(Table):
    """Calls of modules and Python functions."""

    name: Int32s
    thread: Int32s
    start_ns: Int64s
    end_ns: Int64s


@dataclass(eq=False)
class Events:
    """All events of a file, and the tables that their numbers refer to; given up table by table when assembled."""

    names: tuple[str, ...]
    signatures: tuple[Signature, ...]
    threads: tuple[Thread, ...]
    launch_shapes: tuple[LaunchShape, ...]
    collective_calls: tuple[CollectiveCall, ...]
    ops: OpEvents
    runtime: RuntimeEvents
    kernels: WorkEvents
    copies: WorkEvents
    annotations: Annotations
    collectives: CollectiveEvents
    memory: MemoryEvents = field(default_factory=lambda: empty(MemoryEvents))
    frames: FrameEvents = field(default_factory=lambda: empty(FrameEvents))


@dataclass(frozen=True)
class About:
    """What a file says of itself, beside its events."""

    path: str
    device: Device
    base_unix_ns: int = 0  # wall-clock time of nanosecond 0 of the file's clock
    rank: int | None = None
    world_size: int | None = None
    with_shapes: bool = False
    with_memory: bool = False
    with_stacks: bool = False
    events: int = 0  # in the file, read or not
    dropped: int = 0  # that could not be read
    unknown_devices: int = 0  # of devices that probe does not know
    truncated: bool = False
    warnings: tuple[str, ...] = ()


def empty(table: type[T]) -> T:
    """The table without rows."""
    return table(*(np.empty(0, dtype) for dtype in dtypes(table)))


def dtypes(table: type[Table]) -> tuple[type, ...]:
    """Element type of each column, as the table's annotations state it."""
    kinds = {"Int32s": np.int32, "Int64s": np.int64, "Mask": np.bool_}
    return tuple(kinds[str(annotation)] for annotation in table.__annotations__.values())
