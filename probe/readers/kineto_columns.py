"""Decoded Kineto events as columns: names, threads and arguments are numbered once, everything else is an array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from probe.readers import frames, kineto_args, kineto_json, memory_events
from probe.readers.events import (
    NONE,
    CollectiveEvents,
    Events,
    FrameEvents,
    MemoryEvents,
    OpEvents,
    RuntimeEvents,
    WorkEvents,
    dtypes,
)
from probe.readers.kineto_json import LIMIT_NS, MEMORY, NO_ARGS, Args, Event, ExactEvent, Kind, Piece
from probe.trace import MODULE_PREFIX, RANGE_PREFIX, STEP_PREFIX, Annotations, Int64s, Mask, Table, Thread

AnyEvent = Event | ExactEvent
T = TypeVar("T", bound=Table)
UNREADABLE = -2
_MARKS = (STEP_PREFIX, MODULE_PREFIX, RANGE_PREFIX)  # ranges that are recorded as operators: steps were before 2023
_LONGEST_NS = 2**60  # of an event: 36 years


class Numbers(dict[Any, int]):
    """Gives each distinct thing a number, in order of appearance."""

    def __missing__(self, thing: Hashable) -> int:
        number = self[thing] = len(self)
        return number


class Kinds(dict[str, Kind]):
    """The kind of each category, and so all categories that occurred; and those of devices that probe does not know."""

    def __init__(self) -> None:
        self.unknown_devices: dict[str, str] = {}

    def __missing__(self, category: str) -> Kind:
        kind = self[category] = kineto_json.kind_of(category)
        device = kineto_json.unknown_device(category)
        if device is not None:
            self.unknown_devices[category] = device
        return kind


class _Sorting(dict[str, Callable[[AnyEvent], None]]):
    """By category, what puts an event into the list of its kind."""

    def __init__(self, kinds: Kinds, lists: dict[Kind, list[AnyEvent]]) -> None:
        self.kinds = kinds
        self.lists = lists

    def __missing__(self, category: str) -> Callable[[AnyEvent], None]:
        put = self[category] = self.lists[self.kinds[category]].append
        return put


class Arguments(dict[bytes, int]):
    """Numbers what stands in JSON texts joined by zeros; each distinct text is parsed once.

    Texts that are all empty are -1, those that cannot be read -2.
    """

    def __init__(self, parse: Callable[[list[bytes]], Hashable | None]) -> None:
        self.parse = parse
        self.found = Numbers()

    def __missing__(self, joined: bytes) -> int:
        texts = joined.split(b"\0")
        value = self.parse(texts) if any(texts) else None
        number = self.found[value] if value is not None else UNREADABLE if any(texts) else NONE
        self[joined] = number
        return number


class Growing(Generic[T]):
    """A table that grows: room is doubled when it runs out, and memory that was not written to is not used."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self.size = 0
        self.columns: list[npt.NDArray[Any]] = [np.empty(1 << 12, dtype) for dtype in dtypes(kind)]

    def append(self, *columns: Any) -> None:
        """Add rows, a sequence per column."""
        size = self.size + len(columns[0])
        for index, rows in enumerate(columns):
            if size > len(self.columns[index]):
                larger = np.empty(max(2 * len(self.columns[index]), size), self.columns[index].dtype)
                larger[: self.size] = self.columns[index][: self.size]
                self.columns[index] = larger
            self.columns[index][self.size : size] = rows
        self.size = size

    def table(self) -> T:
        """All rows so far."""
        return self.kind(*(column[: self.size] for column in self.columns))


class Columns:
    """All events seen so far, as pieces of columns per table."""

    def __init__(self) -> None:
        self.events = 0
        self.dropped = 0
        self.unreadable = 0  # operators whose arguments are not what a profiler writes
        self.with_memory = False
        self.kinds = Kinds()
        self.unknown_devices = 0
        self.names = Numbers()
        self.threads = Numbers()
        self.signatures = Arguments(kineto_args.signature)
        self.launch_shapes = Arguments(kineto_args.launch_shape)
        self.collectives = Arguments(kineto_args.collective)
        self._ops = Growing(OpEvents)
        self._runtime = Growing(RuntimeEvents)
        self._kernels = Growing(WorkEvents)
        self._copies = Growing(WorkEvents)
        self._annotations = Growing(Annotations)
        self._told = Growing(CollectiveEvents)
        self._memory = Growing(MemoryEvents)
        self._frames = Growing(FrameEvents)
        self._is_kept = frames.Kept()

    def add(self, piece: Piece) -> None:
        """Sort the events of a piece into the tables."""
        events = piece.events
        self.events += len(events) + piece.dropped
        self.dropped += piece.dropped
        kinds = self.kinds
        sorted_by: dict[Kind, list[AnyEvent]] = defaultdict(list)
        put = _Sorting(kinds, sorted_by)
        for event in events:
            put[event.cat](event)
        for kind, add in (
            ("op", self._add_ops),
            ("runtime", self._add_runtime),
            ("kernel", self._add_kernels),
            ("copy", self._add_copies),
            ("annotation", self._add_annotations),
            ("device annotation", self._add_device_annotations),
        ):
            complete = [e for e in sorted_by.get(kind, ()) if e.ph == "X"]  # type: ignore[call-overload]
            if complete:
                add(*self._timed(complete, piece.exact))
        allocations = [e for e in sorted_by["instant"] if e.name == MEMORY]
        if allocations:
            self._add_memory(allocations, piece.exact)
        if sorted_by["frame"]:
            self._add_frames(sorted_by["frame"], piece.exact)
        if kinds.unknown_devices:
            self.unknown_devices += sum(e.cat in kinds.unknown_devices for e in events)

    def _add_memory(self, events: list[AnyEvent], exact: bool) -> None:
        self.with_memory = True
        at, known = (_exact_times if exact else _times)([e.ts for e in events])
        self.dropped += int((~known).sum())
        told = memory_events.columns([e.args or NO_ARGS for e in events])
        rows = (np.array(self._threads(events)), at, *told)
        self._memory.append(*(column[known & (told[1] != 0)] for column in rows))

    def _add_frames(self, events: list[AnyEvent], exact: bool) -> None:
        kept = self._is_kept
        chosen = [e for e in events if kept[e.name] and e.ph == "X"]
        if chosen:
            chosen, start, end = self._timed(chosen, exact)
            self._frames.append(self._named(chosen), self._threads(chosen), start, end)

    def _timed(self, events: list[AnyEvent], exact: bool) -> tuple[list[AnyEvent], Int64s, Int64s]:
        """The events that have times, their starts and their ends."""
        nanoseconds = _exact_times if exact else _times
        start, known = nanoseconds([e.ts for e in events])
        length, measured = nanoseconds([e.dur for e in events])
        keep = known & measured & (length >= 0) & (length < _LONGEST_NS) & (start < LIMIT_NS - np.maximum(length, 0))
        if not keep.all():
            self.dropped += int((~keep).sum())
            events = [events[i] for i in np.flatnonzero(keep).tolist()]
            start, length = start[keep], length[keep]
        return events, start, start + length

    def _add_ops(self, events: list[AnyEvent], start: Int64s, end: Int64s) -> None:
        marking = {name for name in {e.name for e in events} if name.startswith(_MARKS)}
        if marking:
            is_mark = np.array([e.name in marking for e in events], bool)
            marks, ops = np.flatnonzero(is_mark).tolist(), np.flatnonzero(~is_mark).tolist()
            self._add_annotations([events[i] for i in marks], start[is_mark], end[is_mark])
            events, start, end = [events[i] for i in ops], start[~is_mark], end[~is_mark]
        args = [e.args or NO_ARGS for e in events]
        external = _integers([a.external_id for a in args])
        self._ops.append(
            self._named(events),
            self._threads(events),
            start,
            end,
            self._signatures(args),
            external,
            _integers([a.sequence for a in args]),
            _integers([a.record_function for a in args]),
            _integers([a.forward_thread for a in args]),
        )
        self._add_collectives(args, external, on_device=False)

    def _add_runtime(self, events: list[AnyEvent], start: Int64s, end: Int64s) -> None:
        correlation = _integers([(e.args or NO_ARGS).correlation for e in events])
        self._runtime.append(self._named(events), self._threads(events), start, end, correlation)

    def _add_kernels(self, events: list[AnyEvent], start: Int64s, end: Int64s) -> None:
        args = [e.args or NO_ARGS for e in events]
        shapes = self.launch_shapes
        join = b"\0".join
        shape = [shapes[join((a.grid, a.block, a.registers, a.shared_bytes, a.occupancy_percent))] for a in args]
        row = self._work(events, args, start, end, shape)
        self._kernels.append(*row)
        self._add_collectives(args, row[5], on_device=True)

    def _add_copies(self, events: list[AnyEvent], start: Int64s, end: Int64s) -> None:
        args = [e.args or NO_ARGS for e in events]
        self._copies.append(*self._work(events, args, start, end, [NONE] * len(events)))

    def _work(
        self, events: list[AnyEvent], args: list[Args], start: Int64s, end: Int64s, shape: list[int]
    ) -> tuple[Any, ...]:
        """Columns of device work, in the order of WorkEvents; what crosses the bus is told by the names later."""
        graph = _integers([a.graph for a in args])
        return (
            self._named(events),
            start,
            end,
            _within(_integers([a.device for a in args]), np.int32),
            _integers([a.stream for a in args]),
            _integers([a.correlation for a in args]),
            _integers([a.external_id if a.external_id != NONE else a.old_external_id for a in args]),
            _integers([a.bytes for a in args]),
            shape,
            np.zeros(len(events), bool),
            np.where(graph > 0, graph, NONE),  # 0 stands for no graph
        )

    def _add_annotations(self, events: list[AnyEvent], start: Int64s, end: Int64s) -> None:
        self._annotations.append(self._named(events), self._threads(events), start, end, np.zeros(len(events), bool))

    def _add_device_annotations(self, events: list[AnyEvent], start: Int64s, end: Int64s) -> None:
        self._annotations.append(self._named(events), self._threads(events), start, end, np.ones(len(events), bool))

    def _add_collectives(self, args: list[Args], key: Int64s, *, on_device: bool) -> None:
        """The descriptions of collectives among the arguments of operators or kernels."""
        rows = [i for i, a in enumerate(args) if a.collective]
        if not rows:
            return
        told = [args[i] for i in rows]
        call = [self.collectives[b"\0".join(kineto_args.collective_texts(a))] for a in told]
        sequence = _integers([a.collective_sequence for a in told])
        known = np.array(call) >= 0
        place = np.full(len(rows), on_device)
        self._told.append(np.array(call)[known], key[rows][known], place[known], sequence[known])

    def _named(self, events: list[AnyEvent]) -> list[int]:
        names = self.names
        return [names[e.name] for e in events]

    def _threads(self, events: list[AnyEvent]) -> list[int]:
        threads = self.threads
        return [threads[e.pid, e.tid] for e in events]

    def _signatures(self, args: list[Args]) -> Int64s:
        """Number of each operator's arguments, -1 where there are none or they cannot be read."""
        signatures = self.signatures
        join = b"\0".join
        numbers = np.array(
            [
                signatures[
                    join((a.dims or a.old_dims, a.types, a.strides, a.scalars))
                    if not a.kernel_backend
                    else join(kineto_args.generated_texts(a))
                ]
                for a in args
            ],
            np.int64,
        )
        self.unreadable += int((numbers == UNREADABLE).sum())
        return np.where(numbers == UNREADABLE, NONE, numbers)

    def finished(self) -> Events:
        """All events, in one table a kind."""
        names = tuple(self.names)
        crosses = np.array([kineto_args.crosses_bus(name) for name in names], bool)
        copies = self._copies.table()
        return Events(
            names=names,
            signatures=tuple(self.signatures.found),
            threads=tuple(Thread(str(process), str(thread)) for process, thread in self.threads),
            launch_shapes=tuple(self.launch_shapes.found),
            collective_calls=tuple(self.collectives.found),
            ops=self._ops.table(),
            runtime=self._runtime.table(),
            kernels=self._kernels.table(),
            copies=replace(copies, crosses_bus=crosses[copies.name]) if len(copies) else copies,
            annotations=self._annotations.table(),
            collectives=self._told.table(),
            memory=self._memory.table(),
            frames=self._frames.table(),
        )


def _times(microseconds: list[Any]) -> tuple[Int64s, Mask]:
    """Integer nanoseconds of times in microseconds, and which of them there are, of a magnitude below 2**62.

    The whole microseconds and the fraction are converted apart: a product of the two would be rounded once more.
    """
    times = np.fromiter(microseconds, np.float64, len(microseconds))  # twice as fast as np.array
    known = np.abs(times) < LIMIT_NS / 1000  # False for what is not a number
    times = np.where(known, times, 0.0)
    whole = np.floor(times)
    return whole.astype(np.int64) * 1000 + np.rint((times - whole) * 1000).astype(np.int64), known


def _exact_times(microseconds: list[Any]) -> tuple[Int64s, Mask]:
    """The same for times as decimals, one by one."""
    times = [kineto_json.nanoseconds(us) for us in microseconds]
    known = np.array([t is not None for t in times], bool)
    return np.array([t or 0 for t in times], np.int64), known


def _within(numbers: Int64s, kind: type[np.signedinteger[Any]]) -> Int64s:
    """The same numbers; -1 for those that a column of this kind does not hold."""
    limits = np.iinfo(kind)
    return np.where((numbers >= limits.min) & (numbers <= limits.max), numbers, NONE)


def _integers(values: list[Any]) -> Int64s:
    """Recorded ids or sizes; -1 for those that are none, or do not fit into 64 bits."""
    try:
        numbers = np.array(values, np.int64)
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if numbers is None or numbers.shape != (len(values),):
        numbers = np.array([kineto_args.integer(v) for v in values], np.int64)
    return numbers
