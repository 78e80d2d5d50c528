"""What a trace is: typed columns of host operators, device work, annotations and steps.

Large tables are frozen dataclasses of numpy arrays of equal length [n]. Times are integer nanoseconds from the start
of the trace; an index of -1 means "none". Names and argument signatures are stored once and referred to by number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from probe.machine.device import Device
from probe.schema import to_jsonable

Int64s: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_]

STEP_PREFIX = "ProfilerStep#"  # with which torch begins the name of a step's range, whatever tool records it
TENSORS_MARK = "probe: tensors of one step"  # the range of the step that was recorded for its tensors, not for its time
MODULE_PREFIX = "probe.module:"  # the start of a range that names the module whose forward pass it is
RANGE_PREFIX = "probe.range:"  # the start of a range of the user's that is recorded as an operator, which is cheaper
_STEP = re.compile(rf"{STEP_PREFIX}(\d{{1,17}})")

Dims: TypeAlias = tuple[Any, ...]  # of one argument: (2, 3), or ((2, 3), (4,)) for a list of tensors, () for others


def step_number(name: str) -> int | None:
    """The number of the step whose range has this name; None for other names."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Signature:
    """The recorded arguments of an operator call; each tuple has one entry per argument."""

    dims: tuple[Dims, ...]
    dtypes: tuple[str, ...]  # "float", "c10::BFloat16", "Scalar", "" (as the profiler names them)
    strides: tuple[Dims, ...] = ()
    scalars: tuple[str, ...] = ()  # text of what is not a tensor, "" for tensors
    kernel: GeneratedKernel | None = None  # of a call that runs a kernel made by a compiler


@dataclass(frozen=True)
class GeneratedKernel:
    """What the trace says of a kernel that a compiler made (Triton through torch.compile)."""

    backend: str  # "triton"
    hash: str | None
    file: str | None
    grid: str | None  # "grid(1024,)"
    warps: int | None
    stages: int | None


@dataclass(frozen=True)
class Thread:
    """A host thread, as the trace names it."""

    process: str
    id: str


@dataclass(frozen=True, eq=False)
class Table:
    """Equal-length columns [n]; a subclass is a frozen dataclass whose fields are all arrays."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Names and arrays of all columns."""
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    def where(self, rows: Mask | Int64s) -> Self:
        """The given rows, in their order. Indices into other tables stay valid, indices into this one do not."""
        return type(self)(**{name: column[rows] for name, column in self.columns()})


@dataclass(frozen=True, eq=False)
class HostOps(Table):
    """Operator calls on host threads, sorted by thread and start; parents before their children."""

    name: Int32s  # into Trace.names
    thread: Int32s  # into Trace.threads
    start_ns: Int64s
    end_ns: Int64s
    parent: Int32s  # row of the innermost enclosing operator on the same thread
    self_ns: Int64s  # duration less that of the operators called directly
    signature: Int32s  # into Trace.signatures; -1 where arguments were not recorded
    external_id: Int64s
    sequence: Int64s  # autograd sequence number
    record_function: Int64s  # the number by which an execution trace of the same run knows the call; -1 for none
    forward_thread: Int64s  # of a backward operator: the profiler's number of the thread that ran its forward


@dataclass(frozen=True, eq=False)
class RuntimeCalls(Table):
    """CUDA or HIP runtime and driver calls, sorted by thread and start."""

    name: Int32s
    thread: Int32s
    start_ns: Int64s
    end_ns: Int64s
    correlation: Int64s
    op: Int32s  # row of the host operator that made the call


@dataclass(frozen=True, eq=False)
class DeviceWork(Table):
    """Kernels, or copies and memsets, on a device; sorted by start."""

    name: Int32s
    start_ns: Int64s
    end_ns: Int64s
    device: Int32s
    stream: Int64s
    correlation: Int64s
    launch: Int32s  # row of the runtime call that launched it
    op: Int32s  # row of the host operator that launched it
    bytes: Int64s  # copies: bytes moved; -1 where not recorded
    launch_shape: Int32s  # kernels: into Trace.launch_shapes
    crosses_bus: Mask  # copies between host and device; False for kernels
    graph: Int64s  # number of the CUDA graph whose replay ran it, 0 where the number is not recorded; -1 for none

    @property
    def duration_ns(self) -> Int64s:
        """How long each ran, [n]."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class LaunchShape:
    """Grid and resources of a kernel launch; None where the trace does not say."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    registers_per_thread: int | None = None
    shared_bytes: int | None = None
    theoretical_occupancy_fraction: float | None = None


@dataclass(frozen=True, eq=False)
class Annotations(Table):
    """Ranges that the user or a framework named, on the host or projected on the device."""

    name: Int32s
    thread: Int32s
    start_ns: Int64s
    end_ns: Int64s
    on_device: Mask


@dataclass(frozen=True)
class CollectiveCall:
    """What ranks agreed to exchange, as one of them saw it; None where the trace does not say."""

    kind: str  # "allreduce", "_allgather_base", "send", … as the backend names it
    dtype: str | None
    in_elements: int | None
    out_elements: int | None
    group: str | None
    group_size: int | None
    group_ranks: tuple[int, ...] | None = None
    peer: int | None = None  # global rank at the other end of a send or receive


@dataclass(frozen=True, eq=False)
class Collectives(Table):
    """Collectives in the order of their operators' or kernels' start."""

    call: Int32s  # into Trace.collective_calls
    op: Int32s  # row of the host operator, -1 if none
    kernel: Int32s  # row of the kernel, -1 if none
    sequence: Int64s  # the group's own count of its collectives, the same on every rank; -1 where not recorded


@dataclass(frozen=True, eq=False)
class Allocations(Table):
    """Memory that a framework's allocator handed out or took back, in order of time."""

    at_ns: Int64s
    address: Int64s  # -1 where not recorded
    bytes: Int64s  # negative for what was given back
    allocated_bytes: Int64s  # handed out in all, afterwards; -1 where not recorded
    reserved_bytes: Int64s  # held from the driver in all, afterwards; -1 where not recorded
    device: Int32s  # -1 for the host
    thread: Int32s
    op: Int32s  # row of the host operator during which it happened, -1 for none


def no_allocations() -> Allocations:
    """The table without rows."""
    wide, narrow = np.empty(0, np.int64), np.empty(0, np.int32)
    return Allocations(wide, wide, wide, wide, wide, narrow, narrow, narrow)


@dataclass(frozen=True, eq=False)
class Frames(Table):
    """Calls of modules and of Python functions outside torch, sorted by thread and start; callers before callees.

    Names are those of the profiler: "nn.Module: Linear_3", "train.py(82): train_step".
    """

    name: Int32s  # into Trace.names
    thread: Int32s
    start_ns: Int64s
    end_ns: Int64s
    parent: Int32s  # row of the innermost enclosing frame that is kept, -1 for none


def no_frames() -> Frames:
    """The table without rows."""
    wide, narrow = np.empty(0, np.int64), np.empty(0, np.int32)
    return Frames(narrow, narrow, wide, wide, narrow)


@dataclass(frozen=True, eq=False)
class Steps(Table):
    """Recorded training or inference steps in order of time."""

    number: Int64s
    start_ns: Int64s
    end_ns: Int64s

    @property
    def duration_ns(self) -> Int64s:
        """How long each step took, [n]."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class Quality:
    """What of the file stands behind the figures, counted."""

    events: int = 0
    dropped: int = 0  # events that could not be read
    clamped: int = 0  # operators that ended more than 1 µs after their parent and were cut there
    unlaunched: int = 0  # device work whose launch is not in the trace
    unattributed: int = 0  # device work that no host operator launched
    replayed: int = 0  # kernels and copies run by the replay of a graph: many share one launch
    unfinished: int = 0  # launches whose device work is not in the trace
    duplicated: int = 0  # operators whose external id another operator has as well
    overlapping: int = 0  # device work that began before earlier work on the same stream ended
    unknown_devices: int = 0  # events of devices that probe does not know: read, without roofs
    truncated: bool = False  # the file ended in mid-event


@dataclass(frozen=True, eq=False)
class Trace:
    """One process's record of some steps."""

    path: str
    device: Device
    names: tuple[str, ...]
    signatures: tuple[Signature, ...]
    threads: tuple[Thread, ...]
    launch_shapes: tuple[LaunchShape, ...]
    host_ops: HostOps
    runtime_calls: RuntimeCalls
    kernels: DeviceWork
    copies: DeviceWork
    annotations: Annotations
    collective_calls: tuple[CollectiveCall, ...]
    collectives: Collectives
    steps: Steps
    step_thread: int = -1  # into threads: the one that marks the steps
    start_unix_ns: int = 0  # wall-clock time of nanosecond 0
    rank: int | None = None
    world_size: int | None = None
    with_shapes: bool = False
    with_memory: bool = False
    with_stacks: bool = False
    quality: Quality = field(default_factory=Quality)
    warnings: tuple[str, ...] = ()
    window_ns: tuple[int, int] | None = None  # [start, end) of the part chosen; rows that reach into it stay whole
    allocations: Allocations = field(default_factory=no_allocations)
    frames: Frames = field(default_factory=no_frames)

    @property
    def span_ns(self) -> tuple[int, int]:
        """First start and last end over everything in the trace; (0, 0) when it is empty."""
        tables = [t for t in (self.host_ops, self.runtime_calls, self.kernels, self.copies, self.annotations) if len(t)]
        if not tables:
            return (0, 0)
        return min(int(t.start_ns.min()) for t in tables), max(int(t.end_ns.max()) for t in tables)

    @property
    def on_device(self) -> bool:
        """Whether any device activity was recorded."""
        return len(self.kernels) + len(self.copies) > 0

    def named(self, wanted: Callable[[str], bool]) -> Mask:
        """Which of the names are wanted, [names]; index it with a table's name column."""
        return np.array([wanted(name) for name in self.names], bool)

    def to_pandas(self) -> Any:
        """The host operators as a pandas DataFrame, one row a call; times in integer nanoseconds."""
        import pandas as pd

        ops = self.host_ops
        columns = {name: column for name, column in ops.columns() if name not in ("name", "signature")}
        return pd.DataFrame({"name": [self.names[i] for i in ops.name], **columns})

    def to_json(self) -> dict[str, Any]:
        """What the trace holds, counted; for the events themselves use `to_pandas`."""
        tables = ("host_ops", "runtime_calls", "kernels", "copies", "annotations", "collectives", "steps")
        return {
            "schema": "probe.trace/1",
            "path": self.path,
            "device": to_jsonable(self.device),
            "rank": self.rank,
            "world_size": self.world_size,
            "events": {name: len(getattr(self, name)) for name in tables},
            "quality": to_jsonable(self.quality),
            "warnings": list(self.warnings),
        }

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{name}</td><td>{count}</td></tr>" for name, count in self.to_json()["events"].items())
        return f"<p>{escape(self.path)}</p><table>{rows}</table>"

    def check(self) -> None:
        """Raise AssertionError where an invariant is broken; called by the tests after each transform."""
        ops = self.host_ops
        assert (ops.end_ns >= ops.start_ns).all(), "an operator ends before it starts"
        assert (ops.self_ns >= 0).all(), "an operator has negative self time"
        child = ops.parent >= 0
        parent = ops.parent[child]
        assert (parent < np.flatnonzero(child)).all(), "a child precedes its parent"
        assert (ops.start_ns[parent] <= ops.start_ns[child]).all(), "a child starts before its parent"
        assert (ops.end_ns[parent] >= ops.end_ns[child]).all(), "a child ends after its parent"
        roots = ~child
        assert int(ops.self_ns.sum()) == int((ops.end_ns - ops.start_ns)[roots].sum()), "self times do not add up"
        for work in (self.kernels, self.copies):
            assert (work.duration_ns >= 0).all(), "device work ends before it starts"
            assert (work.op < len(ops)).all() and (work.launch < len(self.runtime_calls)).all(), "index out of range"
