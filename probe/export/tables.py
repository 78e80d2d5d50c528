"""The tables of a trace as named columns of text and numbers, for files that other tools read.

Every name is resolved, what is not recorded is None, times are integer nanoseconds on the axis that all traces of the
export share. `row` counts within a rank; the columns that end in `_row` refer to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from probe.export.clocks import Axis
from probe.export.outlines import line_up
from probe.export.traces import Told
from probe.export.written import told
from probe.trace import DeviceWork, LaunchShape, Signature, Trace

SCHEMA = "probe.export/1"
Kind: TypeAlias = Literal["text", "integer", "real", "boolean"]
CHUNK = 1 << 14  # rows that are Python objects at the same time


@dataclass(frozen=True)
class Column:
    """One column of a chunk; its values are made when they are asked for."""

    kind: Kind
    values: Callable[[], list[Any]]


Columns: TypeAlias = dict[str, Column]
Add: TypeAlias = Callable[[Columns], None]  # takes the next rows of a table


class Source:
    """One trace with its texts made once, and the shift of its times."""

    def __init__(self, trace: Trace, shift_ns: int) -> None:
        self.trace, self.shift_ns = trace, shift_ns
        self.names = [_encodable(name) for name in trace.names]
        self.processes = [_encodable(thread.process) for thread in trace.threads]
        self.threads = [_encodable(thread.id) for thread in trace.threads]
        self.arguments = [_arguments(s) for s in trace.signatures]

    def head(self, table: Any, rows: slice) -> Columns:
        """The columns that all tables begin with."""
        chosen = range(len(table))[rows]
        return {
            "rank": Column("integer", lambda: [self.trace.rank] * len(chosen)),
            "row": Column("integer", lambda: list(chosen)),
        }

    def times(self, table: Any, rows: slice) -> Columns:
        """Start, end and duration."""
        return {
            "start_ns": Column("integer", lambda: (table.start_ns[rows] + self.shift_ns).tolist()),
            "end_ns": Column("integer", lambda: (table.end_ns[rows] + self.shift_ns).tolist()),
            "duration_ns": Column("integer", lambda: (table.end_ns[rows] - table.start_ns[rows]).tolist()),
        }

    def thread(self, table: Any, rows: slice) -> Columns:
        """Name, process and thread."""
        return {
            "name": _text(self.names, table.name[rows]),
            "process": _text(self.processes, table.thread[rows]),
            "thread": _text(self.threads, table.thread[rows]),
        }

    def op(self, rows: Any) -> Columns:
        """The operators with these numbers."""
        return {"op_row": _integer(rows), "op": self._name_of(self.trace.host_ops, rows)}

    def launch(self, rows: Any) -> Columns:
        """The runtime calls with these numbers."""
        return {"launch_row": _integer(rows), "launch": self._name_of(self.trace.runtime_calls, rows)}

    def kernel(self, rows: Any) -> Columns:
        """The kernels with these numbers."""
        return {"kernel_row": _integer(rows), "kernel": self._name_of(self.trace.kernels, rows)}

    def _name_of(self, table: Any, rows: Any) -> Column:
        names = self.names
        return Column("text", lambda: [names[table.name[i]] if i >= 0 else None for i in rows.tolist()])


def _ops(source: Source, rows: slice) -> Columns:
    ops = source.trace.host_ops
    return {
        **source.head(ops, rows),
        **source.thread(ops, rows),
        **source.times(ops, rows),
        "self_ns": Column("integer", lambda: ops.self_ns[rows].tolist()),
        "parent_row": _integer(ops.parent[rows]),
        "external_id": _integer(ops.external_id[rows]),
        "sequence": _integer(ops.sequence[rows]),
        "record_function_id": _integer(ops.record_function[rows]),
        "forward_thread": _integer(ops.forward_thread[rows]),
        **{
            part: _text([texts[part] for texts in source.arguments], ops.signature[rows])
            for part in ("input_dims", "input_dtypes", "input_strides", "input_scalars", "generated_kernel")
        },
    }


def _runtime_calls(source: Source, rows: slice) -> Columns:
    calls = source.trace.runtime_calls
    return {
        **source.head(calls, rows),
        **source.thread(calls, rows),
        **source.times(calls, rows),
        "correlation": _integer(calls.correlation[rows]),
        **source.op(calls.op[rows]),
    }


def _work(source: Source, work: DeviceWork, rows: slice) -> Columns:
    return {
        **source.head(work, rows),
        "name": _text(source.names, work.name[rows]),
        "device": _integer(work.device[rows]),
        "stream": _integer(work.stream[rows]),
        **source.times(work, rows),
        "correlation": _integer(work.correlation[rows]),
        "graph": _integer(work.graph[rows]),
        **source.launch(work.launch[rows]),
        **source.op(work.op[rows]),
    }


def _kernels(source: Source, rows: slice) -> Columns:
    kernels, shapes = source.trace.kernels, source.trace.launch_shapes

    def column(kind: Kind, value: Callable[[LaunchShape], Any]) -> Column:
        chosen = kernels.launch_shape[rows]
        return Column(kind, lambda: [value(shapes[i]) if i >= 0 else None for i in chosen.tolist()])

    return {
        **_work(source, kernels, rows),
        "grid": column("text", lambda s: _json(s.grid or None)),
        "block": column("text", lambda s: _json(s.block or None)),
        "registers_per_thread": column("integer", lambda s: s.registers_per_thread),
        "shared_bytes": column("integer", lambda s: s.shared_bytes),
        "theoretical_occupancy_fraction": column("real", lambda s: s.theoretical_occupancy_fraction),
    }


def _copies(source: Source, rows: slice) -> Columns:
    copies = source.trace.copies
    return {
        **_work(source, copies, rows),
        "bytes": _integer(copies.bytes[rows]),
        "crosses_bus": Column("boolean", lambda: copies.crosses_bus[rows].tolist()),
    }


def _annotations(source: Source, rows: slice) -> Columns:
    ranges = source.trace.annotations
    return {
        **source.head(ranges, rows),
        **source.thread(ranges, rows),
        **source.times(ranges, rows),
        "on_device": Column("boolean", lambda: ranges.on_device[rows].tolist()),
    }


def _collectives(source: Source, rows: slice) -> Columns:
    table = source.trace.collectives
    calls = [source.trace.collective_calls[i] for i in table.call[rows].tolist()]
    return {
        **source.head(table, rows),
        "kind": Column("text", lambda: [_encodable(c.kind) for c in calls]),
        "dtype": Column("text", lambda: [_encodable(c.dtype) for c in calls]),
        "in_elements": Column("integer", lambda: [c.in_elements for c in calls]),
        "out_elements": Column("integer", lambda: [c.out_elements for c in calls]),
        "group": Column("text", lambda: [_encodable(c.group) for c in calls]),
        "group_size": Column("integer", lambda: [c.group_size for c in calls]),
        "group_ranks": Column("text", lambda: [_json(c.group_ranks) for c in calls]),
        "peer": Column("integer", lambda: [c.peer for c in calls]),
        "sequence": _integer(table.sequence[rows]),
        **source.op(table.op[rows]),
        **source.kernel(table.kernel[rows]),
    }


def _steps(source: Source, rows: slice) -> Columns:
    steps = source.trace.steps
    number = Column("integer", lambda: steps.number[rows].tolist())
    return {**source.head(steps, rows), "number": number, **source.times(steps, rows)}


_TABLES: dict[str, tuple[str, Callable[[Source, slice], Columns]]] = {  # the trace's own name of each
    "ops": ("host_ops", _ops),
    "runtime_calls": ("runtime_calls", _runtime_calls),
    "kernels": ("kernels", _kernels),
    "copies": ("copies", _copies),
    "annotations": ("annotations", _annotations),
    "collectives": ("collectives", _collectives),
    "steps": ("steps", _steps),
}
NAMES = tuple(_TABLES)


class Export:
    """The traces of an export on one axis, one trace and a chunk of rows at a time."""

    def __init__(self, traces: Sequence[Trace], offsets_ns: Mapping[int, int] | None = None) -> None:
        """offsets_ns: added to the times of a rank, by rank; by default by the collectives that ranks share."""
        self.lineup = line_up(traces, offsets_ns)
        self.axis: Axis = self.lineup.axis

    @cached_property
    def _kinds(self) -> dict[str, dict[str, Kind]]:
        first, nothing = Source(self.lineup.traces[0], 0), slice(0, 0)
        return {
            table: {name: column.kind for name, column in columns(first, nothing).items()}
            for table, (_, columns) in _TABLES.items()
        }

    def kinds(self, table: str) -> dict[str, Kind]:
        """Name and kind of each column."""
        return self._kinds[table]

    def fill(self, sinks: Mapping[str, Add], size: int = CHUNK, progress: Told | None = None) -> dict[str, int]:
        """Give each table's rows of all traces, trace after trace, to its sink; how many there were of each."""
        rows = dict.fromkeys(sinks, 0)
        for number, shift in enumerate(self.axis.shifts_ns):
            source = Source(self.lineup.traces[number], shift)
            for table, add in sinks.items():
                rows[table] += _each(source, table, size, add)
            del source  # before the next is read: two would take twice the memory
            told(progress, number, len(self.lineup.traces))
        return rows


def _each(source: Source, table: str, size: int, add: Add) -> int:
    """Give the rows of one trace to a sink; how many there are."""
    of_trace, columns = _TABLES[table]
    count = len(getattr(source.trace, of_trace))
    for at in range(0, count, size):
        add(columns(source, slice(at, at + size)))
    return count


def _integer(column: Any) -> Column:
    """Numbers of which -1 stands for none."""
    return Column("integer", lambda: [v if v != -1 else None for v in column.tolist()])


def _text(texts: Sequence[str | None], column: Any) -> Column:
    """What each row refers to by number, None for -1."""
    return Column("text", lambda: [texts[i] if i >= 0 else None for i in column.tolist()])


def _arguments(signature: Signature) -> dict[str, str | None]:
    """The recorded arguments as JSON texts."""
    made = signature.kernel
    return {
        "input_dims": _json(signature.dims),
        "input_dtypes": _json(signature.dtypes),
        "input_strides": _json(signature.strides or None),
        "input_scalars": _json(signature.scalars or None),
        "generated_kernel": None if made is None else _json(vars(made)),
    }


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _encodable(text: Any) -> Any:
    """The text with ? for what no file can hold: halves of characters, from names that were cut."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text
