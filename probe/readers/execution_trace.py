"""Read what torch.profiler.ExecutionTraceObserver records (schema 1.0.1 to 1.1.x, Chakra): which tensors went where.

A node's rf_id is the number that Kineto gives the same call as "Record function id", when both recorded together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import TraceError
from probe.readers.events import dtypes
from probe.readers.garbage_collection import without_garbage_collection
from probe.readers.opening import open_stream
from probe.tensors import Tensors, TensorUses
from probe.trace import Int32s, Int64s, Mask, Table, Trace

_SCHEMA = re.compile(rb'"schema"\s*:\s*"([^"]*)"')
_NODE = re.compile(rb'\{\s*"id"\s*:')
_VERSION = re.compile(r"1\.[01]\.\d+(?:-.*)?")
_HEAD = 4096  # bytes that hold the schema
_LISTED = 4096  # torch writes no more of a list of tensors
_OTHER_RUN = 0.01  # more names than this that differ, and the recording is of another run


@dataclass(frozen=True, eq=False)
class Uses(Table):
    """TensorUses before the join: by node instead of by operator."""

    node: Int32s  # into ExecutionTrace.names
    argument: Int32s
    item: Int32s
    is_output: Mask
    tensor: Int64s
    storage: Int64s
    offset: Int64s
    elements: Int64s
    element_bytes: Int32s
    device: Int32s


@dataclass(frozen=True, eq=False)
class ExecutionTrace:
    """The calls of one recording, and the tensors among their arguments and results."""

    path: str
    schema: str
    record_function: Int64s  # number of each call, [nodes]
    names: tuple[str, ...]  # of each call, [nodes]
    uses: Uses
    devices: tuple[str, ...]
    dropped: int = 0  # nodes that could not be read
    warnings: tuple[str, ...] = ()


def read(path: Path | str) -> ExecutionTrace:
    """The recording in a .json or .json.gz file. Raises TraceError."""
    path = Path(path)
    data = _bytes(path)
    schema = _schema(path, data)
    builder = _Builder()
    with without_garbage_collection():
        nodes, unread = _nodes(path, data)
        for node in nodes:
            builder.add(node)
    dropped = unread + builder.dropped
    return ExecutionTrace(
        path=str(path),
        schema=schema,
        record_function=np.array(builder.numbers, np.int64),
        names=tuple(builder.names),
        uses=builder.uses(),
        devices=tuple(builder.devices),
        dropped=dropped,
        warnings=tuple(_warnings(builder, dropped, unread)),
    )


def _warnings(builder: _Builder, dropped: int, unread: int) -> Iterator[str]:
    if unread:
        yield (
            f"the execution trace is cut or has names with quotation marks, which torch does not escape: "
            f"{unread} nodes were left out"
        )
    if dropped > unread:
        yield f"{dropped - unread} nodes of the execution trace have no number or no readable tensors; left out"
    if builder.cut_lists:
        yield f"{builder.cut_lists} lists of tensors are as long as torch writes out ({_LISTED}); more would be missing"


def _bytes(path: Path) -> bytes:
    """The whole text, unzipped; of a zipped file that breaks off what there is."""
    with open_stream(path) as stream:
        return stream.read()


def _schema(path: Path, data: bytes) -> str:
    found = _SCHEMA.search(data[:_HEAD]) or _SCHEMA.search(data[-_HEAD:])
    if found is None:
        raise TraceError(
            f"{path}: not an execution trace (no schema); record one with torch.profiler.ExecutionTraceObserver"
        )
    schema = found[1].decode(errors="replace")
    if not _VERSION.fullmatch(schema):
        raise TraceError(f"{path}: execution trace of schema {schema!r}; probe reads 1.0.x and 1.1.x, as torch writes")
    return schema


def _nodes(path: Path, data: bytes) -> tuple[list[Any], int]:
    """The nodes, and how many could not be read: of a file that is no JSON each node is tried on its own."""
    try:
        whole = json.loads(data)
        nodes = whole.get("nodes") if isinstance(whole, dict) else None
        if not isinstance(nodes, list):
            raise TraceError(f"{path}: an execution trace without a list of nodes; record it again")
        return nodes, 0
    except (ValueError, RecursionError):
        return _salvaged(data)


def _salvaged(data: bytes) -> tuple[list[Any], int]:
    """The nodes that can be read one by one; torch does not escape names, and a killed process ends in mid-file."""
    begins = [found.start() for found in _NODE.finditer(data)]
    decoder = json.JSONDecoder()
    nodes: list[Any] = []
    for begin, end in zip(begins, [*begins[1:], len(data)], strict=True):
        try:
            nodes.append(decoder.raw_decode(data[begin:end].decode(errors="replace"))[0])
        except (ValueError, RecursionError):
            continue
    return nodes, len(begins) - len(nodes)


class _Builder:
    """Nodes on their way to columns."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.names: list[str] = []
        self.devices: dict[str, int] = {}
        self.rows: list[tuple[int, ...]] = []
        self.dropped = self.cut_lists = 0

    def add(self, node: Any) -> None:
        """The number, the name and the tensors of one node; the node that stands for a thread or the process has no."""
        try:
            number = _number(node)
            name = node["name"]
            rows = [*self._tensors(node["inputs"], False), *self._tensors(node["outputs"], True)]
        except (KeyError, TypeError, ValueError, AttributeError):
            self.dropped += 1
            return
        if number == 0:
            return
        self.numbers.append(number)
        self.names.append(str(name))
        self.rows += rows

    def _tensors(self, values: Any, is_output: bool) -> Iterator[tuple[int, ...]]:
        """The tensors among the values of a node, in newer schemas a dictionary of values, shapes and types."""
        listed = values["values"] if isinstance(values, Mapping) else values
        for argument, value in enumerate(listed):
            if _is_tensor(value):
                yield self._row(argument, 0, is_output, value)
            elif isinstance(value, list):
                self.cut_lists += len(value) == _LISTED and _is_tensor(value[0])
                for item, inner in enumerate(value):
                    if _is_tensor(inner):
                        yield self._row(argument, item, is_output, inner)

    def _row(self, argument: int, item: int, is_output: bool, value: list[Any]) -> tuple[int, ...]:
        device = self.devices.setdefault(value[5], len(self.devices))
        return (len(self.numbers), argument, item, is_output, *value[:5], device)

    def uses(self) -> Uses:
        """All rows as columns."""
        columns = np.array(self.rows, np.int64).reshape(-1, 10).T
        return Uses(*(column.astype(kind) for column, kind in zip(columns, dtypes(Uses), strict=True)))


def _number(node: Any) -> int:
    """The rf_id of a node: among its attributes, in the oldest schema on the node itself."""
    if "rf_id" in node:
        return int(node["rf_id"])
    return next((int(a["value"]) for a in node["attrs"] if a["name"] == "rf_id"), 0)


def _is_tensor(value: Any) -> bool:
    """Whether a value is [tensor, storage, offset, elements, element bytes, device]; integers have no device."""
    if not isinstance(value, list) or len(value) != 6 or not isinstance(value[5], str):
        return False
    return all(type(n) is int and -(2**63) <= n < 2**63 for n in value[:5])


def join(trace: Trace, recording: ExecutionTrace) -> Tensors:
    """The tensors of the trace's operators. Raises TraceError where the recording is of another run."""
    op, other_names, repeated = _ops_of_nodes(trace, recording)
    row = op[recording.uses.node]
    uses = recording.uses.where(row >= 0)
    order = np.lexsort((uses.item, uses.argument, uses.is_output, row[row >= 0]))
    columns = {name: column for name, column in uses.where(order).columns() if name != "node"}
    matched = len(np.unique(op[op >= 0]))
    warnings = (*recording.warnings, *_join_warnings(recording, matched, other_names, repeated))
    return Tensors(
        uses=TensorUses(op=row[row >= 0][order], **columns),
        devices=recording.devices,
        matched=matched,
        unmatched_ops=len(trace.host_ops) - matched,
        unmatched_nodes=int((op < 0).sum()),
        warnings=warnings,
    )


def _ops_of_nodes(trace: Trace, recording: ExecutionTrace) -> tuple[Int32s, int, int]:
    """Row of each node's operator, -1 for none; how many nodes another name speaks against; how many are repeated."""
    ops = trace.host_ops
    once = _once(ops.record_function) & (ops.record_function > 0)
    rows = dict(zip(ops.record_function[once].tolist(), np.flatnonzero(once).tolist(), strict=True))
    op = np.array([rows.get(number, -1) for number in recording.record_function.tolist()], np.int32)
    single = _once(recording.record_function)
    repeated = int((~single & (op >= 0)).sum())
    op[~single] = -1
    found = np.flatnonzero(op >= 0)
    differ = [node for node in found.tolist() if trace.names[ops.name[op[node]]] != recording.names[node]]
    if len(differ) > _OTHER_RUN * len(found):
        raise _other_run(trace, recording, len(differ), len(found))
    op[differ] = -1
    return op, len(differ), repeated


def _other_run(trace: Trace, recording: ExecutionTrace, differ: int, found: int) -> TraceError:
    return TraceError(
        f"{recording.path}: {differ} of {found} calls have other names in {trace.path}: the two are of different runs; "
        "record both at once with torch.profiler.profile(execution_trace_observer=…)"
    )


def _once(numbers: Int64s) -> Mask:
    """Which numbers occur once."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)] == 1, bool)


def _join_warnings(recording: ExecutionTrace, matched: int, other_names: int, repeated: int) -> Iterator[str]:
    if not matched:
        yield (
            f"{recording.path}: no operator of the trace has a number that the execution trace knows; "
            "record both at once with torch.profiler.profile(execution_trace_observer=…)"
        )
    if other_names:
        yield f"{other_names} calls have another name in the execution trace and were left out"
    if repeated:
        yield f"{repeated} nodes of the execution trace share their number with another and were left out"
