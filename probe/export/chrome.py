"""Traces as one Chrome JSON file that Perfetto, chrome://tracing and probe's own Kineto reader open.

Written row by row, a chunk at a time: the file is never held in memory. What the traces do not hold (the environment,
metadata of other tools, call stacks) is not written. A single trace comes back from the reader as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from probe.export import kineto_keys as keys
from probe.export.chrome_args import Arguments, Fields, fields, numbers, picked
from probe.export.clocks import labels
from probe.export.outlines import Lineup, Outline, line_up
from probe.export.places import Places
from probe.export.traces import Told
from probe.export.written import Written, output, told
from probe.trace import STEP_PREFIX, DeviceWork, Int32s, Int64s, Table, Trace

_CHUNK = 1 << 13  # events that are text at the same time
_DRIVER_CALL = re.compile(r"cu[A-Z]")  # cuLaunchKernel; the runtime's begin with cuda, HIP's with hip
_MEMSET = re.compile(r"memset|fillbuffer", re.IGNORECASE)


def write(
    traces: Sequence[Trace], path: Path, *, offsets_ns: Mapping[int, int] | None = None, progress: Told | None = None
) -> Written:
    """Write the traces, one a rank, to `path` (zipped for .gz); InputError where that cannot be written.

    offsets_ns: how much later the events of a rank are than its wall clock says, by rank, in nanoseconds. By default
        what the collectives that ranks share say of it.
    """
    lineup = line_up(traces, offsets_ns)
    rows = 0
    with output(path) as stream:
        stream.write(_head(lineup).encode())
        separator = b"\n"
        for number, texts in enumerate(_texts(lineup)):
            rows += _events(traces[number])
            for text in texts:
                stream.write(separator + text.encode())
                separator = b",\n"
            told(progress, number, len(traces))
        stream.write(b"\n]}\n")
    return Written(path, rows, "events", lineup.axis.warnings)


def _events(trace: Trace) -> int:
    tables: tuple[Table, ...] = (trace.host_ops, trace.runtime_calls, trace.kernels, trace.copies, trace.annotations)
    return sum(map(len, tables)) + len(_unmarked(trace))


def _head(lineup: Lineup) -> str:
    """The top-level fields; the events come last, so that a reader knows the clock and the device before them."""
    traces = lineup.outlines
    sizes = {t.world_size for t in traces}
    who = {
        keys.RANK: traces[0].rank if len(traces) == 1 else None,
        keys.WORLD_SIZE: sizes.pop() if len(sizes) == 1 else None,
    }
    known = {k: v for k, v in who.items() if v is not None}
    head = fields({
        keys.SCHEMA_VERSION: 1,
        keys.DEVICES: list({json.dumps(d): d for t in traces for d in _device(t)}.values()),
        keys.DISTRIBUTED: known or None,
        keys.WITH_SHAPES: 1 if any(t.with_shapes for t in traces) else None,
        keys.DISPLAY_UNIT: "ms",
        keys.BASE_NS: lineup.axis.origin_unix_ns,
    })  # fmt: skip
    return f'{{{head},"{keys.EVENTS}":['


def _device(trace: Outline) -> list[dict[str, Any]]:
    """The device as Kineto describes it; nothing where the trace is of a CPU or does not name its device."""
    device = trace.device
    if device.kind not in ("cuda", "rocm") or (device.name == "unknown device" and device.sm_count is None):
        return []
    major, _, minor = (device.compute_capability or "").partition(".")
    known = {
        keys.DEVICE_ID: trace.device_number,
        keys.DEVICE_NAME: device.name,
        keys.DEVICE_MEMORY: device.memory_bytes,
        keys.DEVICE_MAJOR: int(major) if major.isdigit() else None,
        keys.DEVICE_MINOR: int(minor) if minor.isdigit() else None,
        keys.DEVICE_SMS: device.sm_count,
    }
    return [{k: v for k, v in known.items() if v is not None}]


class _Numbers:
    """What the traces before have used up of numbers that must differ between traces."""

    def __init__(self, several: bool) -> None:
        self.places = count(1) if several else None
        self.arrows = count(1)
        self.order = 0
        self.ids = _Ids()


def _texts(lineup: Lineup) -> Iterator[Iterator[str]]:
    """The events of each trace, several to a text, separated by commas."""
    used = _Numbers(len(lineup.traces) > 1)
    for number, label in enumerate(labels(lineup.outlines)):
        yield _texts_of(lineup.traces[number], lineup.axis.shifts_ns[number], label, used)


def _texts_of(trace: Trace, shift: int, label: str, used: _Numbers) -> Iterator[str]:
    places = Places(trace, label, used.places, used.order)
    names = list(places.metadata())
    used.order += len(names)  # more than there are processes
    if names:
        yield ",\n".join(names)
    yield from _Events(trace, places, shift, used.ids, used.arrows).texts()
    used.ids = used.ids.after(trace)


class _Ids:
    """What is added to the numbers of a trace so that they differ from those of the traces before."""

    def __init__(self, correlation: int = 0, external: int = 0) -> None:
        self.correlation, self.external = correlation, external

    def after(self, trace: Trace) -> _Ids:
        """The same for the trace that follows."""
        correlations = (trace.runtime_calls.correlation, trace.kernels.correlation, trace.copies.correlation)
        return _Ids(
            self.correlation + 1 + max(int(c.max(initial=0)) for c in correlations),
            self.external + 1 + int(trace.host_ops.external_id.max(initial=0)),
        )


class _Events:
    """The events of one trace on their way to text."""

    def __init__(self, trace: Trace, places: Places, shift: int, ids: _Ids, arrows: Iterator[int]) -> None:
        self.trace, self.shift, self.ids, self.arrows = trace, shift, ids, arrows
        self.places = places
        self.names = [json.dumps(name) for name in trace.names]
        self.threads = places.threads()
        self.arguments = Arguments(trace)
        self.runtime = [keys.DRIVER if _DRIVER_CALL.match(name) else keys.RUNTIME for name in trace.names]
        self.copies = [keys.SET if _MEMSET.search(name) else keys.COPY for name in trace.names]

    def texts(self) -> Iterator[str]:
        """All events, a chunk at a time: host threads one after another, then the device."""
        trace = self.trace
        of_thread = [_by_thread(t, len(self.threads)) for t in (trace.annotations, trace.host_ops, trace.runtime_calls)]
        for ranges, ops, calls in zip(*of_thread, strict=True):
            yield from map(self._annotations, _chunks(ranges))
            yield from map(self._ops, _chunks(ops))
            yield from map(self._calls, _chunks(calls))
        if unmarked := _unmarked(trace):
            yield ",\n".join(self._step(row) for row in unmarked)
        for work, is_kernel in ((trace.kernels, True), (trace.copies, False)):
            for rows in _chunks(np.arange(len(work))):
                yield self._work(work, rows, is_kernel)
                if arrows := self._arrows(work, rows):
                    yield arrows

    def _annotations(self, rows: Int64s) -> str:
        table = self.trace.annotations.where(rows)
        categories = [keys.DEVICE_ANNOTATION if on_device else keys.ANNOTATION for on_device in table.on_device]
        return self._complete(categories, table, picked(self.threads, table.thread))

    def _ops(self, rows: Int64s) -> str:
        table = self.trace.host_ops.where(rows)
        return self._complete(
            [keys.OPERATOR] * len(table), table, picked(self.threads, table.thread),
            numbers(keys.EXTERNAL_ID, table.external_id, self.ids.external),
            numbers(keys.RECORD_FUNCTION, table.record_function),
            numbers(keys.SEQUENCE, table.sequence),
            numbers(keys.FORWARD_THREAD, table.forward_thread),
            picked(self.arguments.signatures, table.signature),
            self.arguments.of_ops(rows),
        )  # fmt: skip

    def _calls(self, rows: Int64s) -> str:
        table = self.trace.runtime_calls.where(rows)
        return self._complete(
            picked(self.runtime, table.name), table, picked(self.threads, table.thread),
            numbers(keys.CORRELATION, table.correlation, self.ids.correlation),
        )  # fmt: skip

    def _work(self, work: DeviceWork, rows: Int64s, is_kernel: bool) -> str:
        table = work.where(rows)
        return self._complete(
            [keys.KERNEL] * len(table) if is_kernel else picked(self.copies, table.name), table, self._streams(table),
            numbers(keys.EXTERNAL_ID, self._external(table.op), self.ids.external),
            numbers(keys.DEVICE, table.device),
            numbers(keys.STREAM, table.stream),
            numbers(keys.CORRELATION, table.correlation, self.ids.correlation),
            numbers(keys.BYTES, table.bytes),
            numbers(keys.GRAPH, np.where(table.graph > 0, table.graph, -1)),
            picked(self.arguments.launch_shapes, table.launch_shape),
            self.arguments.of_kernels(rows) if is_kernel else [""] * len(table),
        )  # fmt: skip

    def _external(self, ops: Int32s) -> Int64s:
        """The id by which a reader finds the operator of device work whose launch is not in the trace."""
        known = np.append(self.trace.host_ops.external_id, -1)
        return known[ops]  # the last one for -1, none

    def _streams(self, table: DeviceWork) -> list[str]:
        pairs = list(zip(table.device.tolist(), table.stream.tolist(), strict=True))
        known = {pair: self.places.stream(*pair) for pair in set(pairs)}
        return [known[pair] for pair in pairs]

    def _step(self, row: int) -> str:
        """A step that no annotation of the trace marks, as one."""
        steps = self.trace.steps
        name = json.dumps(f"{STEP_PREFIX}{int(steps.number[row])}")
        start, end = int(steps.start_ns[row]) + self.shift, int(steps.end_ns[row]) + self.shift
        return _event(keys.ANNOTATION, name, self.places.thread(self.trace.step_thread), start, end, ())

    def _complete(self, categories: Sequence[str], table: Any, places: Sequence[str], *arguments: Fields) -> str:
        """The rows of a table with names and times as events."""
        names = picked(self.names, table.name)
        starts, ends = (table.start_ns + self.shift).tolist(), (table.end_ns + self.shift).tolist()
        rows = zip(*arguments, strict=True) if arguments else [()] * len(names)
        return ",\n".join(map(_event, categories, names, places, starts, ends, rows))

    def _arrows(self, work: DeviceWork, rows: Int64s) -> str:
        """From each launch to what it launched; a number each, because Perfetto takes only one end for a number."""
        rows = rows[work.launch[rows] >= 0]
        table = work.where(rows)
        calls = self.trace.runtime_calls.where(table.launch.astype(np.int64))
        begins = zip(picked(self.threads, calls.thread), (calls.start_ns + self.shift).tolist(), strict=True)
        ends = zip(self._streams(table), (table.start_ns + self.shift).tolist(), strict=True)
        return ",\n".join(_arrow(next(self.arrows), *b, *e) for b, e in zip(begins, ends, strict=True))


_COMPLETE = f'{{"{keys.PHASE}":"{keys.COMPLETE}","{keys.CATEGORY}":"'
_NAME, _START, _DURATION, _ARGUMENTS = (
    f',"{key}":' for key in (keys.NAME, keys.START_US, keys.DURATION_US, keys.ARGUMENTS)
)


def _event(category: str, name: str, place: str, start_ns: int, end_ns: int, arguments: Iterable[str]) -> str:
    """One complete event; its name and arguments are JSON text already."""
    return (
        f'{_COMPLETE}{category}"{_NAME}{name},{place}{_START}{_microseconds(start_ns)}'
        f"{_DURATION}{_microseconds(end_ns - start_ns)}{_ARGUMENTS}{{{','.join(filter(None, arguments))}}}}}"
    )


def _arrow(number: int, start: str, start_ns: int, end: str, end_ns: int) -> str:
    kind = f'"{keys.CATEGORY}":"{keys.ARROW}"{_NAME}"{keys.ARROW}","{keys.ARROW_ID}":{number}'
    end = f'"{keys.BINDING}":"{keys.ENCLOSING}",{kind},{end}'
    return (
        f'{{"{keys.PHASE}":"{keys.ARROW_STARTS}",{kind},{start}{_START}{_microseconds(start_ns)}}},\n'
        f'{{"{keys.PHASE}":"{keys.ARROW_ENDS}",{end}{_START}{_microseconds(end_ns)}}}'
    )


def _microseconds(nanoseconds: int) -> str:
    """The time with three decimals, exactly: a float has not enough digits."""
    whole, rest = divmod(abs(nanoseconds), 1000)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:03}"


def _by_thread(table: Any, threads: int) -> list[Int64s]:
    """The rows of each thread, in their order."""
    order = np.argsort(table.thread, kind="stable")
    return np.split(order, np.searchsorted(table.thread[order], np.arange(1, threads))) if threads else []


def _chunks(rows: Int64s) -> Iterator[Int64s]:
    return (rows[at : at + _CHUNK] for at in range(0, len(rows), _CHUNK))


def _unmarked(trace: Trace) -> list[int]:
    """Rows of the steps for which the host has no mark of the kind that the profiler sets."""
    table = trace.annotations
    marked = {trace.names[i] for i in np.unique(table.name[~table.on_device])}
    numbered = enumerate(trace.steps.number.tolist())
    return [row for row, number in numbered if f"{STEP_PREFIX}{number}" not in marked]
