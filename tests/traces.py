"""Traces made directly, without a reader: whole ones for hypothesis, and one with something in every field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from probe.machine.device import Cache, Device
from probe.trace import (
    Allocations,
    Annotations,
    CollectiveCall,
    Collectives,
    DeviceWork,
    Frames,
    GeneratedKernel,
    HostOps,
    LaunchShape,
    Quality,
    RuntimeCalls,
    Signature,
    Steps,
    Thread,
    Trace,
)

HORIZON_NS = 60  # of drawn traces: short, so that edges coincide
NAMES = ("aten::mm", "aten::add", "cudaLaunchKernel", "gemm", "Memcpy HtoD", "ProfilerStep#1", "名前 \x00 π")


def ints(values: Any, dtype: Any = np.int32) -> Any:
    return np.array(values, dtype)


def host_ops(rows: list[tuple[int, int, int, int]]) -> HostOps:
    """Operators from (thread, start, end, parent), in the order the table wants."""
    table = np.array(rows, np.int64).reshape(-1, 4)
    thread, start, end, parent = table.T
    self_ns = end - start
    for row, above in enumerate(parent):
        if above >= 0:
            self_ns[above] -= end[row] - start[row]
    n = len(rows)
    return HostOps(
        name=ints(np.arange(n) % 2), thread=ints(thread), start_ns=start, end_ns=end, parent=ints(parent),
        self_ns=self_ns, signature=ints(np.arange(n) % 3 - 1), external_id=np.arange(n) + 100,
        sequence=np.full(n, -1), record_function=np.arange(n), forward_thread=np.full(n, -1),
    )  # fmt: skip


def runtime_calls(rows: list[tuple[int, int, int]]) -> RuntimeCalls:
    """Calls from (start, end, operator)."""
    start, end, op = np.array(rows, np.int64).reshape(-1, 3).T
    n = len(rows)
    return RuntimeCalls(
        name=ints([2] * n),
        thread=ints([0] * n),
        start_ns=start,
        end_ns=end,
        correlation=np.arange(n) + 500,
        op=ints(op),
    )


def device_work(rows: list[tuple[int, int, int, int]], kernels: bool = True) -> DeviceWork:
    """Work from (start, end, launch, operator)."""
    start, end, launch, op = np.array(sorted(rows), np.int64).reshape(-1, 4).T
    n = len(rows)
    return DeviceWork(
        name=ints([3 if kernels else 4] * n), start_ns=start, end_ns=end, device=ints([0] * n), stream=np.full(n, 7),
        correlation=np.arange(n) + 500, launch=ints(launch), op=ints(op), bytes=np.full(n, -1 if kernels else 64),
        launch_shape=ints([0 if kernels else -1] * n), crosses_bus=np.full(n, not kernels), graph=np.full(n, -1),
    )  # fmt: skip


def annotations(rows: list[tuple[int, int]]) -> Annotations:
    start, end = np.array(sorted(rows), np.int64).reshape(-1, 2).T
    n = len(rows)
    return Annotations(
        name=ints([5] * n), thread=ints([0] * n), start_ns=start, end_ns=end, on_device=np.zeros(n, bool)
    )


def steps(rows: list[tuple[int, int, int]]) -> Steps:
    """Steps from (number, start, end)."""
    number, start, end = np.array(rows, np.int64).reshape(-1, 3).T
    return Steps(number=number, start_ns=start, end_ns=end)


def collectives(rows: list[tuple[int, int]]) -> Collectives:
    """Collectives from (operator, kernel)."""
    op, kernel = np.array(rows, np.int64).reshape(-1, 2).T
    n = len(rows)
    return Collectives(call=ints([0] * n), op=ints(op), kernel=ints(kernel), sequence=np.arange(n))


def allocations(rows: list[tuple[int, int, int, int]], base: int = 1000, device: int = 0) -> Allocations:
    """Memory taken and given back, from (time, address, bytes, operator), with `base` bytes there before."""
    at, address, size, op = np.array(rows, np.int64).reshape(-1, 4).T
    n, level = len(rows), base + np.cumsum(size)
    return Allocations(
        at_ns=at, address=address, bytes=size, allocated_bytes=level, reserved_bytes=np.full(n, 4096),
        device=ints([device] * n), thread=ints([0] * n), op=ints(op),
    )  # fmt: skip


def frames(rows: list[tuple[int, int, int]]) -> Frames:
    """Python frames on thread 0 from (start, end, parent), callers first."""
    start, end, parent = np.array(rows, np.int64).reshape(-1, 3).T
    n = len(rows)
    return Frames(name=ints([1] * n), thread=ints([0] * n), start_ns=start, end_ns=end, parent=ints(parent))


def trace(**tables: Any) -> Trace:
    """A trace that fills every field; tables given by name replace the empty ones."""
    filled = Trace(
        path="/made/trace.json",
        device=Device("cuda", "Test GPU", caches=(Cache(1, 32768, 64, 2),), clock_hz=1.5e9),
        names=NAMES,
        signatures=(
            Signature(
                ((2, 3), ((2, 3), (4,), ((),)), ()), ("float", "TensorList", ""), ((3, 1), (), ()), ("", "", "1")
            ),
            Signature(((),), ("Scalar",), kernel=GeneratedKernel("triton", "ab", None, "grid(1,)", 4, None)),
        ),
        threads=(Thread("7", "1"), Thread("7", "2")),
        launch_shapes=(LaunchShape((8, 1, 1), (128, 1, 1), 32, None, 0.75), LaunchShape((), ())),
        host_ops=host_ops([]),
        runtime_calls=runtime_calls([]),
        kernels=device_work([]),
        copies=device_work([], kernels=False),
        annotations=annotations([]),
        collective_calls=(CollectiveCall("allreduce", "float", 4, None, "0", 2, (0, 1), None),),
        collectives=collectives([]),
        steps=steps([]),
        step_thread=0,
        start_unix_ns=1_700_000_000_123_456_789,
        rank=1,
        world_size=2,
        with_shapes=True,
        quality=Quality(events=9, dropped=1, truncated=True),
        warnings=("something was left out",),
    )
    return replace(filled, **tables)


def busy() -> Trace:
    """Two threads, three steps, work on the device that trails its launch."""
    return trace(
        host_ops=host_ops(
            [(0, 0, 20, -1), (0, 2, 10, 0), (0, 12, 18, 0), (0, 22, 30, -1), (0, 40, 50, -1), (1, 5, 45, -1)]
        ),
        runtime_calls=runtime_calls([(4, 5, 1), (13, 14, 2), (24, 25, 3), (42, 43, 4), (52, 53, -1)]),
        kernels=device_work([(8, 15, 0, 1), (16, 26, 1, 2), (27, 41, 2, 3), (44, 58, 3, 4)]),
        copies=device_work([(55, 60, 4, -1)], kernels=False),
        annotations=annotations([(0, 21), (21, 39), (39, 60)]),
        steps=steps([(3, 0, 21), (4, 21, 39), (7, 39, 60)]),
        collectives=collectives([(3, 2), (4, -1)]),
        allocations=allocations(
            [(1, 7, 64, 0), (3, 8, 32, 1), (9, 8, -32, 1), (23, 9, 16, 3), (41, 7, -64, -1), (43, 9, -16, 4)]
        ),
        frames=frames([(0, 60, -1), (1, 21, 0), (22, 31, 0)]),
    )


@st.composite
def _forests(draw: st.DrawFn) -> HostOps:
    """Operators properly nested on two threads."""
    rows: list[tuple[int, int, int, int]] = []

    def fill(thread: int, start: int, end: int, parent: int, depth: int) -> None:
        at = start
        for _ in range(draw(st.integers(0, 3))):
            first = draw(st.integers(at, end))
            last = draw(st.integers(first, end))
            rows.append((thread, first, last, parent))
            if depth < 3:
                fill(thread, first, last, len(rows) - 1, depth + 1)
            at = last

    for thread in range(2):
        fill(thread, 0, HORIZON_NS, -1, 0)
    return host_ops(rows)


@st.composite
def _work(draw: st.DrawFn, calls: int, ops: int, kernels: bool) -> DeviceWork:
    rows = []
    for start in draw(st.lists(st.integers(0, HORIZON_NS), max_size=6)):
        end = draw(st.integers(start, HORIZON_NS + 20))
        rows.append((start, end, draw(st.integers(-1, calls - 1)), draw(st.integers(-1, ops - 1))))
    return device_work(rows, kernels)


@st.composite
def drawn(draw: st.DrawFn) -> Trace:
    """Any small trace that keeps the invariants of `Trace.check`, indices included."""
    ops = draw(_forests())
    starts = sorted(draw(st.lists(st.integers(0, HORIZON_NS), max_size=6)))
    calls = runtime_calls([(s, s + draw(st.integers(0, 5)), draw(st.integers(-1, len(ops) - 1))) for s in starts])
    kernels = draw(_work(len(calls), len(ops), True))
    edges = sorted(draw(st.lists(st.integers(0, HORIZON_NS), max_size=8)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    told = draw(st.lists(st.tuples(st.integers(-1, len(ops) - 1), st.integers(-1, len(kernels) - 1)), max_size=4))
    return trace(
        host_ops=ops,
        runtime_calls=calls,
        kernels=kernels,
        copies=draw(_work(len(calls), len(ops), False)),
        annotations=annotations(pairs),
        steps=steps([(i + 3, *pair) for i, pair in enumerate(pairs)]),
        collectives=collectives(told),
    )
