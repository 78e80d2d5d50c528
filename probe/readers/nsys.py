"""Read an SQLite export of Nsight Systems (nsys export --type sqlite) into a Trace: one process of the recording.

Times are integer nanoseconds from the start of the session. Tables and columns are those of schema 3.x; none is taken
for granted, because nsys makes only the tables that it has rows for.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.errors import TraceError, UsageError
from probe.readers import assemble
from probe.readers.events import NONE, About, CollectiveEvents, Events, RuntimeEvents, WorkEvents, empty
from probe.readers.nsys_database import Columns, Database
from probe.readers.nsys_device import device_of
from probe.readers.nsys_ranges import RANGES, Interned, Ranges
from probe.trace import Int32s, Int64s, LaunchShape, Mask, Thread, Trace

KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"  # replays of CUDA graphs that were recorded as a whole
COPIES = "CUPTI_ACTIVITY_KIND_MEMCPY"
SETS = "CUPTI_ACTIVITY_KIND_MEMSET"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
_WORK = (KERNELS, GRAPHS, COPIES, SETS)
_EVENTS = (*_WORK, RUNTIME, RANGES)

_TIMES = {"start": "start", "end": "end"}
_PLACE = {**_TIMES, "device": "deviceId", "stream": "streamId", "correlation": "correlationId"}
_PLACE |= {"graph": "graphId", "node": "graphNodeId"}
_SHAPE = tuple(f"{what}{axis}" for what in ("grid", "block") for axis in "XYZ")
_RESOURCES = ("registersPerThread", "staticSharedMemory", "dynamicSharedMemory")

_OPERATIONS = "Unknown HTOD DTOH HTOA ATOH ATOA ATOD DTOA DTOD HTOH PTOP UVM_HTOD UVM_DTOH UVM_DTOD".split()
_MEMORIES = ("Pageable", "Pinned", "Device", "Array", "Managed", "Device Static", "Managed Static", "Unknown")
_VERSION = re.compile(r"_v\d{4,5}(?:_pt[ds]z)?$")  # nsys appends the version of CUDA to a call's name: _v11060


@dataclass(frozen=True)
class Process:
    """One process of a recording, and how much of it was recorded."""

    key: int  # its number in the export, unique there also over machines
    pid: int
    name: str | None
    device_work: int  # kernels, graphs, copies and memsets
    events: int


def read(path: Path | str, process: int | None = None) -> Trace:
    """The trace of one process: that with this pid, else the one with most device work. Raises TraceError.

    A Trace is the record of one process; figures of several ranks added up would be of none. `processes` lists them.
    """
    with _opened(Path(path)) as database:
        there = _processes(database)
        chosen = _choose(there, process, Path(path))
        return _Export(database, chosen, there).trace()


def processes(path: Path | str) -> tuple[Process, ...]:
    """The processes that the export knows the events of, by pid; empty where it does not tell. Raises TraceError."""
    with _opened(Path(path)) as database:
        return _processes(database)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Database]:
    database = Database(path)
    try:
        if not database.tables & {*_EVENTS, "META_DATA_EXPORT"}:
            raise TraceError(
                f"{path}: an SQLite database, but not of Nsight Systems (no table {KERNELS}, {RUNTIME} or {RANGES}); "
                "make one with nsys export --type sqlite REPORT.nsys-rep"
            )
        for table in _EVENTS:
            if table in database.tables and not {"start", "end"} <= database.columns(table):
                raise TraceError(f"{path}: table {table} has no column start or end; export it with nsys 2021 or newer")
        yield database
    finally:
        database.close()


def _processes(database: Database) -> tuple[Process, ...]:
    work, events = Counter[int](), Counter[int]()
    for table in _EVENTS:
        counts = database.processes(table)
        events.update(counts)
        work.update(counts if table in _WORK else {})
    named = database.table("PROCESSES", ("globalPid", "name"))
    names = {row["globalPid"] >> 24: row["name"] for row in named if isinstance(row["globalPid"], int)}
    found = [
        Process(key, key & 0xFFFFFF, None if names.get(key) is None else str(names[key]), work[key], events[key])
        for key in events
    ]
    return tuple(sorted(found, key=lambda p: (p.pid, p.key)))


def _choose(there: tuple[Process, ...], pid: int | None, path: Path) -> Process | None:
    """The process to read; None where the export does not tell its processes apart."""
    if pid is None:
        return max(there, key=lambda p: (p.device_work, p.events, -p.pid), default=None)
    found = [p for p in there if p.pid == pid]
    if not found:
        known = ", ".join(str(p.pid) for p in there) or "none"
        raise UsageError(f"{path}: has no events of process {pid}; it has those of {known}")
    return max(found, key=lambda p: p.events)


class _Export:
    """One process of an export on its way to Events."""

    def __init__(self, database: Database, process: Process | None, processes: tuple[Process, ...]) -> None:
        self.database = database
        self.process = process
        self.processes = processes
        self.key = process.key if process else None
        self.interned = Interned()
        self.shapes: dict[tuple[int, ...], int] = {}
        self.counted = self.dropped = 0

    def trace(self) -> Trace:
        """All of it, assembled."""
        kernels, graphs = self._kernels(), self._graphs()
        copies = _joined([self._copies(), self._sets()])
        runtime = self._runtime()
        ranges = Ranges(self.database, self.key, self.interned)
        events = Events(
            names=tuple(self.interned.names),
            signatures=tuple(self.interned.signatures),
            threads=tuple(Thread(str(n >> 24 & 0xFFFFFF), str(n & 0xFFFFFF)) for n in self.interned.threads),
            launch_shapes=tuple(_launch_shape(values) for values in self.shapes),
            collective_calls=(),
            ops=ranges.ops,
            runtime=runtime,
            kernels=_joined([kernels, graphs]),
            copies=copies,
            annotations=ranges.annotations,
            collectives=empty(CollectiveEvents),
        )
        return assemble.trace(events, self._about(events, ranges, len(graphs)))

    def _about(self, events: Events, ranges: Ranges, graphs: int) -> About:
        devices = np.concatenate([events.kernels.device, events.copies.device])
        pid = self.process.pid if self.process else None
        device, unsure = device_of(self.database, pid, devices)
        start = self.database.value("TARGET_INFO_SESSION_START_TIME", "utcEpochNs")
        warnings = (*self._process_warnings(), *self._range_warnings(ranges), *_gpu_warnings(devices, graphs), *unsure)
        return About(
            path=str(self.database.path),
            device=device,
            base_unix_ns=start if isinstance(start, int) else 0,
            with_shapes=bool(self.interned.signatures),
            events=self.counted + ranges.counted,
            dropped=self.dropped + ranges.dropped,
            warnings=warnings,
        )

    def _process_warnings(self) -> Iterator[str]:
        others = [p for p in self.processes if p != self.process and (p.device_work or not self._has_device_work)]
        if self.process is not None and others:
            one = self.process
            named = f"{one.pid} ({one.name})" if one.name else str(one.pid)
            yield (
                f"{len(others) + 1} processes in the export: process {named} with {one.device_work} device "
                f"activities was read, those of {', '.join(str(p.pid) for p in others[:8])} were not"
            )
        for table in _EVENTS:
            if len(self.processes) > 1 and self.database.count(table) and self.database.process_column(table) is None:
                yield f"{table} does not tell its process: rows of all {len(self.processes)} processes were read"

    @property
    def _has_device_work(self) -> bool:
        return any(p.device_work for p in self.processes)

    def _range_warnings(self, ranges: Ranges) -> Iterator[str]:
        if ranges.step_name is not None:
            yield f"NVTX ranges named like {ranges.step_name!r} were taken for the steps"
        if ranges.open:
            yield f"{ranges.open} NVTX ranges were open when the recording ended and were left out"
        if not any(table in self.database.tables for table in _WORK):
            yield "the export holds no GPU work; record with nsys profile --trace=cuda,nvtx"

    def _work(self, table: str, columns: dict[str, str]) -> Columns:
        """Rows of a table of device work or calls that have a start and an end; the others are counted as dropped."""
        found = self.database.integers(table, columns, self.key)
        kept = (found["start"] != NONE) & (found["end"] >= found["start"])
        self.counted += len(kept)
        self.dropped += int((~kept).sum())
        return found if kept.all() else {name: column[kept] for name, column in found.items()}

    def _kernels(self) -> WorkEvents:
        extents = {name: name for name in (*_SHAPE, *_RESOURCES)}
        names = {"long": "demangledName|mangledName|shortName", "short": "shortName"}
        found = self._work(KERNELS, {**_PLACE, **names, **extents})
        missing = found["long"] < 0
        found["long"][missing] = found["short"][missing]
        launch = np.stack([found[name] for name in extents], axis=1)
        return self._events(found, self._named(found["long"]), launch_shape=self._launch_shapes(launch))

    def _launch_shapes(self, launches: Int64s) -> Int32s:
        """Number of each kernel's launch shape; -1 where neither grid nor block is known."""
        distinct, inverse = np.unique(launches, axis=0, return_inverse=True)
        numbers = [
            self.shapes.setdefault(tuple(row), len(self.shapes)) if max(row[:6]) > 0 else NONE
            for row in distinct.tolist()
        ]
        return np.array(numbers, np.int32)[inverse.reshape(-1)]

    def _graphs(self) -> WorkEvents:
        """Replays of CUDA graphs recorded as a whole: one row each in place of its kernels."""
        found = self._work(GRAPHS, _PLACE)
        numbers = np.unique(found["graph"])
        ids = np.array(
            [self.interned.name(f"CUDA graph {n}" if n >= 0 else "CUDA graph") for n in numbers.tolist()], np.int32
        )
        graph = np.maximum(found["graph"], 0)
        return self._events(found, ids[np.searchsorted(numbers, found["graph"])], graph=graph)

    def _copies(self) -> WorkEvents:
        columns = {"bytes": "bytes", "kind": "copyKind", "source": "srcKind", "target": "dstKind"}
        found = self._work(COPIES, {**_PLACE, **columns})
        operations = _labels(self.database, "ENUM_CUDA_MEMCPY_OPER", "name", _OPERATIONS)
        memories = _labels(self.database, "ENUM_CUDA_MEM_KIND", "label", _MEMORIES)
        kinds = np.stack([found["kind"], found["source"], found["target"]], axis=1)
        distinct, inverse = np.unique(kinds, axis=0, return_inverse=True)
        texts = [_copy_name(operations, memories, *row) for row in distinct.tolist()]
        names = np.array([self.interned.name(text) for text in texts], np.int32)[inverse.reshape(-1)]
        crosses = np.array(["HtoD" in t or "DtoH" in t or "HtoA" in t or "AtoH" in t for t in texts], bool)
        return self._events(found, names, crosses=crosses[inverse.reshape(-1)])

    def _sets(self) -> WorkEvents:
        found = self._work(SETS, {**_PLACE, "bytes": "bytes", "kind": "memKind"})
        memories = _labels(self.database, "ENUM_CUDA_MEM_KIND", "label", _MEMORIES)
        kinds, inverse = np.unique(found["kind"], return_inverse=True)
        names = [self.interned.name(f"Memset ({memories.get(kind, 'Unknown')})") for kind in kinds.tolist()]
        return self._events(found, np.array(names, np.int32)[inverse.reshape(-1)])

    def _events(
        self, found: Columns, name: Int32s, launch_shape: Int32s | None = None, crosses: Mask | None = None,
        graph: Int64s | None = None,
    ) -> WorkEvents:  # fmt: skip
        count = len(name)
        none = np.full(count, NONE, np.int64)
        return WorkEvents(
            name=name,
            start_ns=found["start"],
            end_ns=found["end"],
            device=found["device"].astype(np.int32),
            stream=found["stream"],
            correlation=found["correlation"],
            external_id=none,
            bytes=found.get("bytes", none),
            launch_shape=none.astype(np.int32) if launch_shape is None else launch_shape,
            crosses_bus=np.zeros(count, bool) if crosses is None else crosses,
            graph=_graph_numbers(found) if graph is None else graph,
        )

    def _runtime(self) -> RuntimeEvents:
        columns = {"thread": "globalTid", "correlation": "correlationId", "name": "nameId"}
        found = self._work(RUNTIME, {**_TIMES, **columns})
        return RuntimeEvents(
            name=self._named(found["name"], versioned=True),
            thread=self._threads(found["thread"]),
            start_ns=found["start"],
            end_ns=found["end"],
            correlation=found["correlation"],
        )

    def _named(self, ids: Int64s, versioned: bool = False) -> Int32s:
        """Numbers of the names that these ids of the table of strings stand for."""
        distinct, inverse = np.unique(ids, return_inverse=True)
        texts = self.database.strings(distinct)
        names = [texts.get(i, "unknown") for i in distinct.tolist()]
        numbers = [self.interned.name(_VERSION.sub("", name) if versioned else name) for name in names]
        return np.array(numbers, np.int32)[inverse.reshape(-1)]

    def _threads(self, ids: Int64s) -> Int32s:
        distinct, inverse = np.unique(ids, return_inverse=True)
        numbers = [self.interned.thread(i) for i in distinct.tolist()]
        return np.array(numbers, np.int32)[inverse.reshape(-1)]


def _joined(parts: list[WorkEvents]) -> WorkEvents:
    columns = zip(*([column for _, column in part.columns()] for part in parts), strict=True)
    return WorkEvents(*(np.concatenate(column) for column in columns))


def _graph_numbers(found: Columns) -> Int64s:
    """Number of the graph that ran each row; 0 where only a node of a graph is told. Older exports write 0 for none."""
    return np.where(found["graph"] > 0, found["graph"], np.where(found["node"] > 0, 0, NONE))


def _launch_shape(values: tuple[int, ...]) -> LaunchShape:
    registers, static, dynamic = values[6:]
    known = static >= 0 and dynamic >= 0
    return LaunchShape(
        grid=values[:3],
        block=values[3:6],
        registers_per_thread=registers if registers > 0 else None,
        shared_bytes=static + dynamic if known else None,
    )


def _labels(database: Database, table: str, column: str, usual: list[str] | tuple[str, ...]) -> dict[int, str]:
    """The words of an enumeration by number: those of the export, else the usual ones."""
    told = {row["id"]: str(row[column]) for row in database.table(table, ("id", column)) if row[column] is not None}
    return {number: text for number, text in told.items() if isinstance(number, int)} or dict(enumerate(usual))


def _copy_name(operations: dict[int, str], memories: dict[int, str], kind: int, source: int, target: int) -> str:
    """A copy's name in the words of Kineto: "Memcpy HtoD (Pageable -> Device)"."""
    operation = operations.get(kind, "Unknown").removeprefix("CUDA_MEMCPY_KIND_").removeprefix("UVM_")
    direction = re.sub("([A-Z])TO([A-Z])", r"\1to\2", operation)
    ends = [memories.get(memory, "Unknown") for memory in (source, target)]
    return f"Memcpy {direction}" if source < 0 or target < 0 else f"Memcpy {direction} ({ends[0]} -> {ends[1]})"


def _gpu_warnings(devices: Int32s, graphs: int) -> Iterator[str]:
    used = np.unique(devices[devices >= 0])
    if len(used) > 1:
        yield f"the process used {len(used)} GPUs; time during which any of them was busy counts as busy"
    if graphs:
        yield (
            f"{graphs} replays of CUDA graphs were recorded as a whole; "
            "for their kernels record with nsys profile --cuda-graph-trace=node"
        )
