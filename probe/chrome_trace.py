"""Make a Trace of the events of a Kineto/Chrome trace file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from probe import assemble
from probe.assemble import NONE, OpEvent, RuntimeEvent, WorkEvent
from probe.chrome_json import KINDS, NO_ARGS, STEP_PREFIX, Args, TraceFile, decode
from probe.device import Device, DeviceKind
from probe.trace import (
    Annotations,
    Collective,
    DeviceWork,
    HostOps,
    LaunchShape,
    Quality,
    Signature,
    Steps,
    Thread,
    Trace,
)

_STEP = re.compile(rf"{STEP_PREFIX}(\d+)")
_CROSSES_BUS = re.compile(r"HtoD|DtoH|HostToDevice|DeviceToHost", re.IGNORECASE)  # as CUDA, as ROCm names copies
_OVERLAP_NS = 1000  # steps may overlap by this much: the ends of a mark are rounded apart
_LIMIT_NS = 2**62  # of a time's magnitude: the difference of any two fits 64 bits, and the time of day does until 2116
_LONGEST_NS = 2**60  # of an event: 36 years
_DEEPEST = 8  # of nested argument lists: real ones have 3
_RANK_IN_NAME = re.compile(r"rank[-_]?0*(\d+)", re.IGNORECASE)


def read(path: str | Path) -> Trace:
    """The trace in `path`; TraceError says what is wrong with the file where nothing of it can be kept."""
    path = Path(path)
    return _Reading(path, decode(path)).trace()


class _Reading:
    """One file on its way to a Trace: interning tables and the events sorted by kind."""

    def __init__(self, path: Path, file: TraceFile) -> None:
        self.path = path
        self.file = file
        self.dropped = file.dropped
        self.unreadable = 0  # operators whose arguments are not what a profiler writes
        self.names: dict[str, int] = {}
        self.threads: dict[tuple[str, str], int] = {}
        self.signatures: dict[tuple[bytes, ...], int] = {}
        self.launch_shapes: dict[LaunchShape, int] = {}
        self.parsed: list[Signature] = []
        self.ops: list[OpEvent] = []
        self.runtime: list[RuntimeEvent] = []
        self.kernels: list[WorkEvent] = []
        self.copies: list[WorkEvent] = []
        self.annotations: list[tuple[int, int, int, int, bool]] = []
        self.op_collectives: list[tuple[int, Args]] = []  # External id of the operator
        self.kernel_collectives: list[tuple[int, Args]] = []  # correlation of the kernel
        self.hip = False
        self.seen: set[str] = set()

    def trace(self) -> Trace:
        """The finished trace."""
        for event in self.file.events:
            if event.ph == "X":
                self._add(event)
            elif event.name == "[memory]":
                self.seen.add(event.name)
        origin = self._rebase()
        steps, step_thread, overlapping = self._steps()
        ops, clamped = assemble.host_ops(self.ops)
        calls = assemble.runtime_calls(self.runtime, ops)
        kernels = assemble.device_work(self.kernels, ops, calls)
        copies = assemble.device_work(self.copies, ops, calls)
        quality = self._quality(clamped, (kernels, copies))
        rank, world_size = self._rank()
        trace = Trace(
            path=str(self.path),
            device=self._device(len(kernels) + len(copies) > 0),
            names=tuple(self.names),
            signatures=tuple(self.parsed),
            threads=tuple(Thread(*key) for key in self.threads),
            launch_shapes=tuple(self.launch_shapes),
            host_ops=ops,
            runtime_calls=calls,
            kernels=kernels,
            copies=copies,
            annotations=self._annotations(),
            collectives=self._collectives(ops, kernels),
            steps=steps,
            step_thread=step_thread,
            start_unix_ns=origin + (self.file.head.base_ns or 0),
            rank=rank,
            world_size=world_size,
            with_shapes=bool(self.parsed),
            with_memory="[memory]" in self.seen,
            with_stacks="python_function" in self.seen,
            quality=quality,
        )
        return replace(trace, warnings=tuple(_warnings(trace, self.unreadable, overlapping)))

    def _add(self, event: Any) -> None:
        """Put one complete event into the table of its kind."""
        category = event.cat.lower()
        self.seen.add(category)
        kind = KINDS.get(category)
        if kind is None:
            return
        start, duration = _nanoseconds(event.ts), _nanoseconds(event.dur)
        if start is None or duration is None or not 0 <= duration < _LONGEST_NS or start + duration >= _LIMIT_NS:
            self.dropped += 1
            return
        end = start + duration
        args = event.args or NO_ARGS
        name = self._name(event.name)
        is_step = kind == "op" and event.name.startswith(STEP_PREFIX)  # before 2023 steps were operators
        if kind in ("annotation", "device annotation") or is_step:
            on_device = kind == "device annotation"
            self.annotations.append((name, self._thread(event), start, end, on_device))
        elif kind == "op":
            self._add_op(name, self._thread(event), start, end, args)
        elif kind == "runtime":
            self.hip = self.hip or event.name.startswith("hip")
            self.runtime.append(RuntimeEvent(name, self._thread(event), start, end, _integer(args.correlation)))
        else:
            crosses_bus = kind == "copy" and _CROSSES_BUS.search(event.name) is not None
            self._add_work(kind, name, start, end, args, crosses_bus)

    def _add_op(self, name: int, thread: int, start: int, end: int, args: Args) -> None:
        external = _integer(args.external_id)
        self.ops.append(
            OpEvent(
                name, thread, start, end, self._signature(args), external,
                _integer(args.sequence), _integer(args.forward_thread),
            )
        )  # fmt: skip
        if args.collective is not None:
            self.op_collectives.append((external, args))

    def _add_work(self, kind: str, name: int, start: int, end: int, args: Args, crosses_bus: bool) -> None:
        correlation = _integer(args.correlation)
        shape = NONE
        if kind == "kernel":
            shape = self.launch_shapes.setdefault(_launch_shape(args), len(self.launch_shapes))
            if args.collective is not None:
                self.kernel_collectives.append((correlation, args))
        (self.kernels if kind == "kernel" else self.copies).append(
            WorkEvent(
                name, start, end, _integer(args.device), _integer(args.stream), correlation,
                _integer(args.external_id), _integer(args.bytes), shape, crosses_bus,
            )
        )  # fmt: skip

    def _name(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def _thread(self, event: Any) -> int:
        return self.threads.setdefault((str(event.pid), str(event.tid)), len(self.threads))

    def _signature(self, args: Args) -> int:
        """Number of the operator's arguments, -1 where they cannot be read; parsed once per distinct text."""
        key = (
            bytes(args.dims) or bytes(args.old_dims),
            bytes(args.types),
            bytes(args.strides),
            bytes(args.scalars),
        )
        if not key[0]:
            return NONE
        known = self.signatures.get(key)
        if known is None:
            parsed = _parse_signature(*key)
            known = self.signatures[key] = NONE if parsed is None else len(self.parsed)
            if parsed is not None:
                self.parsed.append(parsed)
        self.unreadable += known == NONE
        return known

    def _rebase(self) -> int:
        """Shift all events so that the first starts at 0; returns the shift."""
        every: tuple[list[Any], ...] = (self.ops, self.runtime, self.kernels, self.copies)
        starts = [e.start_ns for events in every for e in events] + [a[2] for a in self.annotations]
        origin = min(starts, default=0)
        for events in every:
            events[:] = [e._replace(start_ns=e.start_ns - origin, end_ns=e.end_ns - origin) for e in events]
        self.annotations = [(n, t, s - origin, e - origin, d) for n, t, s, e, d in self.annotations]
        return origin

    def _annotations(self) -> Annotations:
        rows = sorted(self.annotations, key=lambda a: (a[2], -a[3]))
        return Annotations(
            name=assemble.column(rows, 0, np.int32),
            thread=assemble.column(rows, 1, np.int32),
            start_ns=assemble.column(rows, 2),
            end_ns=assemble.column(rows, 3),
            on_device=assemble.column(rows, 4, np.bool_),
        )

    def _steps(self) -> tuple[Steps, int, int]:
        """The steps, once each and one after another; the thread that marks them; how many overlapped an earlier."""
        rows: list[tuple[int, int, int, int]] = []
        kept: set[int] = set()
        overlapping = 0
        for start, minus_end, number, thread in self._step_marks():
            if number in kept:
                continue
            if rows and start < rows[-1][1] - _OVERLAP_NS:
                overlapping += 1
                continue
            kept.add(number)
            rows.append((start, -minus_end, number, thread))
        steps = Steps(
            number=assemble.column(rows, 2),
            start_ns=assemble.column(rows, 0),
            end_ns=assemble.column(rows, 1),
        )
        return steps, rows[0][3] if rows else NONE, overlapping

    def _step_marks(self) -> list[tuple[int, int, int, int]]:
        """Start, negative end, number and thread of the ProfilerStep marks on the host; outer before inner."""
        names = list(self.names)
        matches = ((_STEP.fullmatch(names[a[0]]), a) for a in self.annotations if not a[4])
        return sorted((start, -end, _integer(m[1]), thread) for m, (_, thread, start, end, _) in matches if m)

    def _collectives(self, ops: HostOps, kernels: DeviceWork) -> tuple[Collective, ...]:
        """Collectives described on kernels and, where no described kernel belongs to them, on operators."""
        row_of_op = {int(e): i for i, e in enumerate(ops.external_id) if e >= 0}
        row_of_kernel = {int(c): i for i, c in enumerate(kernels.correlation) if c >= 0}
        found = []
        told: set[int] = set()
        for correlation, args in self.kernel_collectives:
            kernel = row_of_kernel.get(correlation, NONE)
            op = int(kernels.op[kernel]) if kernel >= 0 else NONE
            told.add(op)
            found.append(_collective(args, op, kernel))
        for external, args in self.op_collectives:
            op = row_of_op.get(external, NONE)
            if op < 0 or op not in told:
                found.append(_collective(args, op, NONE))
        return tuple(found)

    def _rank(self) -> tuple[int | None, int | None]:
        """Rank and world size from the file, else the rank from its name."""
        info = self.file.head.distributed
        if info is not None and _integer(info.rank) >= 0:
            return _integer(info.rank), _positive(info.world_size)
        named = _RANK_IN_NAME.search(self.path.name)
        return (int(named[1]) if named else None), None

    def _device(self, active: bool) -> Device:
        """The device whose work was recorded, as far as the file names it."""
        devices = self.file.head.devices or []
        if not devices:
            kind: DeviceKind = ("rocm" if self.hip else "cuda") if self.runtime else ("unknown" if active else "cpu")
            return Device(kind=kind, name="CPU" if kind == "cpu" else "unknown device")
        used = {w.device for w in (*self.kernels, *self.copies)} - {NONE}
        chosen = next((d for d in devices if _integer(d.id) in used), devices[0])
        name = str(chosen.name or "unknown device")
        version = (chosen.major, chosen.minor)
        return Device(
            kind="rocm" if self.hip or "AMD" in name else "cuda",
            name=name,
            compute_capability="{}.{}".format(*version) if all(type(n) is int for n in version) else None,
            sm_count=_positive(chosen.sm_count),
            memory_bytes=_positive(chosen.memory_bytes),
        )

    def _quality(self, clamped: int, work: tuple[DeviceWork, ...]) -> Quality:
        return Quality(
            events=len(self.file.events) + self.file.dropped,
            dropped=self.dropped,
            clamped=clamped,
            unlaunched=sum(int((w.launch < 0).sum()) for w in work),
            unattributed=sum(int((w.op < 0).sum()) for w in work),
            truncated=self.file.truncated,
        )


def _nanoseconds(microseconds: Any) -> int | None:
    """Integer nanoseconds of a time in microseconds; None where there is none of a magnitude below _LIMIT_NS."""
    if microseconds is None or (isinstance(microseconds, Decimal) and not microseconds.is_finite()):
        return None
    if not -_LIMIT_NS < microseconds < _LIMIT_NS:  # first, because Decimal's arithmetic raises when it overflows
        return None
    nanoseconds = round(microseconds * 1000)
    return nanoseconds if abs(nanoseconds) < _LIMIT_NS else None


def _integer(value: Any) -> int:
    """A recorded id or size, -1 where there is none that fits into 64 bits."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return NONE
    return number if -(2**63) <= number < 2**63 else NONE


def _positive(value: Any) -> int | None:
    number = _integer(value)
    return number if number > 0 else None


def _parse_signature(dims: bytes, dtypes: bytes, strides: bytes, scalars: bytes) -> Signature | None:
    """The arguments in these JSON texts, None where they are not what a profiler writes."""
    try:
        return Signature(
            dims=tuple(_extents(v) for v in _list(dims)),
            dtypes=tuple(_text(v) for v in _list(dtypes)),
            strides=tuple(_extents(v) for v in _list(strides)),
            scalars=tuple(v if isinstance(v, str) else "" for v in _list(scalars)),
        )
    except (ValueError, RecursionError):
        return None


def _list(text: bytes) -> list[Any]:
    """The list in a JSON text, an empty one where there is no text; ValueError for anything else."""
    value = json.loads(text) if text else []
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _extents(value: Any, depth: int = 1) -> tuple[Any, ...]:
    """Nested lists of integers as tuples; ValueError for anything else."""
    if not isinstance(value, list) or depth > _DEEPEST:
        raise ValueError("not lists of integers")
    return tuple(_extent(v) if type(v) is int else _extents(v, depth + 1) for v in value)


def _extent(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("more than 64 bits")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value


def _launch_shape(args: Args) -> LaunchShape:
    def extent(value: Any) -> tuple[int, ...]:
        return tuple(_integer(v) for v in value) if isinstance(value, list) else ()

    percent = args.occupancy_percent
    usable = isinstance(percent, (int, float)) and 0 < percent <= 100  # 0 means "not computed"
    return LaunchShape(
        grid=extent(args.grid),
        block=extent(args.block),
        registers_per_thread=_positive(args.registers),
        shared_bytes=_integer(args.shared_bytes) if args.shared_bytes is not None else None,
        theoretical_occupancy_fraction=percent / 100 if usable else None,
    )


def _collective(args: Args, op: int, kernel: int) -> Collective:
    return Collective(
        kind=str(args.collective),
        dtype=args.collective_dtype if isinstance(args.collective_dtype, str) else None,
        in_elements=_positive(args.in_elements),
        out_elements=_positive(args.out_elements),
        group=str(args.group) if args.group is not None else None,
        group_size=_positive(args.group_size),
        op=op,
        kernel=kernel,
    )


def _warnings(trace: Trace, unreadable: int, overlapping: int) -> Iterator[str]:
    """What a reader of the figures must know about the file."""
    quality = trace.quality
    if quality.truncated:
        yield f"the file is cut; {quality.events - quality.dropped} events before the cut were kept"
    if quality.dropped:
        yield f"{quality.dropped} of {quality.events} events could not be read and were left out"
    if unreadable:
        yield f"{unreadable} operators have arguments that cannot be read; they count as not recorded"
    if overlapping:
        yield f"{overlapping} steps begin inside an earlier step and were left out"
    if not len(trace.host_ops) and not trace.on_device:
        yield "no operators and no device activity among the events"
    if trace.device.kind != "cpu" and not trace.on_device:
        yield "no device activity recorded; record with ProfilerActivity.CUDA"
    if quality.unlaunched and len(trace.runtime_calls):
        yield f"{quality.unlaunched} device activities were launched before the recording began"
