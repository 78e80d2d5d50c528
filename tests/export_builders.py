"""A trace with every kind of row, and what a file that was written of it holds."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from probe.machine.device import Device
from probe.trace import (
    Annotations,
    CollectiveCall,
    Collectives,
    DeviceWork,
    GeneratedKernel,
    HostOps,
    LaunchShape,
    RuntimeCalls,
    Signature,
    Steps,
    Thread,
    Trace,
)

SECOND = 10**9


def table(kind: type[Any], rows: Sequence[Sequence[Any]] = ()) -> Any:
    """A table of these rows, with the columns' own types."""
    types = {"Int32s": np.int32, "Int64s": np.int64, "Mask": np.bool_}
    columns = [*zip(*rows, strict=True)] or [()] * len(fields(kind))
    return kind(*(np.array(c, types[str(f.type)]) for f, c in zip(fields(kind), columns, strict=True)))


def small_trace(rank: int | None = 3, start_unix_ns: int = 1_700_000_000_123_456_789, **changes: Any) -> Trace:
    """One step with every kind of row; the kernel is a collective, its name is a formula to a spreadsheet."""
    made = Trace(
        path="runs/rank3.json",
        device=Device("cuda", "NVIDIA Test GPU", compute_capability="9.0", sm_count=132, memory_bytes=1 << 36),
        names=("ProfilerStep#7", "aten::mm", "cudaLaunchKernel", '=HYPERLINK("http://evil")', "Memset (Device)", "cuX"),
        signatures=(
            Signature(
                ((4, 8), ((2,), (3,)), ()), ("float", "TensorList", "Scalar"), ((8, 1), ((1,), (1,)), ()), ("", "", "2")
            ),
            Signature(((4,),), ("float",), kernel=GeneratedKernel("triton", "abc", "/tmp/k.py", "grid(8,)", 4, None)),
        ),
        threads=(Thread("7", "7"), Thread("python", "007"), Thread("0", "20")),
        launch_shapes=(LaunchShape((8, 1, 1), (128, 1, 1), 32, 0, 0.29), LaunchShape((), ())),
        host_ops=table(HostOps, [
            (1, 0, 5_001, 50_003, -1, 35_002, 0, 11, 4, 9, 0),
            (1, 0, 10_000, 20_000, 0, 10_000, 1, 12, -1, 0, -1),
            (1, 1, 0, 1, -1, 1, -1, -1, -1, -1, -1),
        ]),
        runtime_calls=table(RuntimeCalls, [(2, 0, 12_345, 13_000, 100, 1), (5, 0, 30_000, 31_000, 101, 0)]),
        kernels=table(DeviceWork, [(3, 15_002, 18_009, 0, 20, 100, 0, 1, -1, 0, False, 17)]),
        copies=table(DeviceWork, [(4, 40_000, 40_000, 0, 20, 101, 1, 0, 512, -1, False, -1)]),
        annotations=table(Annotations, [(0, 0, 0, 90_000, False), (0, 2, 15_002, 40_000, True)]),
        collective_calls=(CollectiveCall("allreduce", "Float", 10, 10, "0", 2, (0, 1)),),
        collectives=table(Collectives, [(0, 1, 0, 5)]),
        steps=table(Steps, [(7, 0, 90_000)]),
        step_thread=0,
        start_unix_ns=start_unix_ns,
        rank=rank,
        world_size=None if rank is None else 8,
        with_shapes=True,
    )  # fmt: skip
    return replace(made, **changes)


def empty_trace() -> Trace:
    rows = {name: table(type(getattr(small_trace(), name))) for name in (*EVENT_TABLES, "collectives", "steps")}
    return replace(small_trace(), names=(), threads=(), step_thread=-1, signatures=(), launch_shapes=(), **rows)


EVENT_TABLES = ("host_ops", "runtime_calls", "kernels", "copies", "annotations")


def resolved(trace: Trace) -> dict[str, Any]:
    """All that a trace says, with numbers replaced by what they refer to: names and threads may be numbered otherwise.

    Rows that are sorted by thread are put in the order of the threads' names, and references to them follow.
    """
    texts = {
        "name": trace.names, "thread": trace.threads, "signature": trace.signatures,
        "launch_shape": trace.launch_shapes, "call": trace.collective_calls,
    }  # fmt: skip
    names = [(t.process, t.id) for t in trace.threads]
    by_name = np.array([sorted(names).index(n) for n in names], int)
    orders = {n: np.argsort(by_name[getattr(trace, n).thread], kind="stable") for n in ("host_ops", "runtime_calls")}
    places = {n: np.append(np.argsort(order), -1) for n, order in orders.items()}
    references = {"op": places["host_ops"], "parent": places["host_ops"], "launch": places["runtime_calls"]}

    def column(table: str, name: str, values: Any) -> list[Any]:
        if table in orders:
            values = values[orders[table]]
        if name in references:
            values = references[name][values]
        known = texts.get(name)
        return values.tolist() if known is None else [known[i] if i >= 0 else None for i in values.tolist()]

    found = {
        name: {n: column(name, n, c) for n, c in getattr(trace, name).columns()}
        for name in (*EVENT_TABLES, "collectives", "steps")
    }
    step_thread = trace.threads[trace.step_thread] if trace.step_thread >= 0 else None
    about = ("device", "rank", "world_size", "start_unix_ns", "with_shapes")
    return {**found, "step_thread": step_thread, **{name: getattr(trace, name) for name in about}}


def assert_same(found: Trace, wanted: Trace) -> None:
    left, right = resolved(found), resolved(wanted)
    assert left.keys() == right.keys()
    for key in left:
        assert left[key] == right[key], key


def events(path: Path, ph: str = "X") -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [e for e in json.loads(text)["traceEvents"] if e["ph"] == ph]


def head(path: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads(path.read_bytes()).items() if k != "traceEvents"}


def ranks(*starts: int, **changes: Any) -> list[Trace]:
    return [small_trace(rank, 1_700_000_000 * SECOND + start, **changes) for rank, start in enumerate(starts)]


def rows_of(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))
