"""Joins and counts over any tables, against the same written as loops."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.machine.device import Device
from probe.readers import assemble
from probe.readers.events import About, CollectiveEvents, Events, OpEvents, RuntimeEvents, WorkEvents, dtypes, empty
from probe.trace import Annotations, Table, Thread, Trace

T = TypeVar("T", bound=Table)
NAMES = ("op", "cudaLaunchKernel", "cudaGraphLaunch", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaMalloc")
REPLAY, BEGIN, END = 2, 3, 4


def table(kind: type[T], rows: list[dict[str, int]]) -> T:
    """A table of these rows, -1 where a row says nothing."""
    columns = [[row.get(f.name, -1) for row in rows] for f in fields(kind)]
    return kind(*(np.array(c, dtype) for c, dtype in zip(columns, dtypes(kind), strict=True)))


def assembled(ops: list[Any], calls: list[Any], work: list[Any]) -> Trace:
    events = Events(
        NAMES, (), (Thread("1", "1"), Thread("1", "2")), (), (), table(OpEvents, ops), table(RuntimeEvents, calls),
        table(WorkEvents, work), empty(WorkEvents), empty(Annotations), empty(CollectiveEvents),
    )  # fmt: skip
    return assemble.trace(events, About("t", Device("cuda", "x")))


def interval(start: int, length: int, **columns: int) -> dict[str, int]:
    return {"start_ns": start, "end_ns": start + length, **columns}


times = {"start": st.integers(0, 60), "length": st.integers(0, 20)}
calls = st.builds(
    interval, **times, name=st.integers(1, 5), thread=st.integers(0, 1), correlation=st.integers(-1, 4)
)  # fmt: skip
work = st.builds(
    interval, **times, name=st.just(0), device=st.just(0), stream=st.integers(-1, 1),
    correlation=st.integers(-1, 5), external_id=st.integers(-1, 5), graph=st.integers(-1, 1).map(lambda g: g or -1),
)  # fmt: skip
ops = st.builds(interval, **times, name=st.just(0), thread=st.integers(0, 1), external_id=st.integers(-1, 4))


@settings(max_examples=150)
@given(st.lists(ops, max_size=5), st.lists(calls, max_size=8), st.lists(work, max_size=8))
def test_any_tables(some_ops: list[Any], some_calls: list[Any], some_work: list[Any]) -> None:
    made = assembled(some_ops, some_calls, some_work)
    made.check()
    externals = [w["external_id"] for w in sorted(some_work, key=lambda w: (w["start_ns"], w["end_ns"]))]
    for row, external in enumerate(externals):
        assert made.kernels.launch[row] in launches(made, row)
        assert made.kernels.op[row] == owner(made, row, external)
    quality = made.quality
    assert quality.unlaunched == int((made.kernels.launch < 0).sum())
    assert quality.unattributed == int((made.kernels.op < 0).sum())
    assert quality.overlapping == overlapping(some_work)
    assert quality.unfinished == unfinished(made)
    ids = [o["external_id"] for o in some_ops if o["external_id"] > 0]
    assert quality.duplicated == len(ids) - len(set(ids))
    names = [made.runtime_calls.name[i] if i >= 0 else 0 for i in made.kernels.launch]
    replayed = [name == REPLAY or graph >= 0 for name, graph in zip(names, made.kernels.graph, strict=True)]
    assert quality.replayed == sum(replayed)


def launches(made: Trace, row: int) -> set[int]:
    """Calls that may have launched a kernel: of those with its number the last to begin before it, if one did."""
    calls, number, start = made.runtime_calls, made.kernels.correlation[row], made.kernels.start_ns[row]
    same = [i for i in range(len(calls)) if calls.correlation[i] == number >= 0]
    before = [i for i in same if calls.start_ns[i] <= start]
    latest = max((calls.start_ns[i] for i in before), default=None)
    return {i for i in before if calls.start_ns[i] == latest} or set(same) or {-1}


def owner(made: Trace, row: int, external: int) -> int:
    """The operator of a kernel: its launch's, else the only one with its external id."""
    launch = made.kernels.launch[row]
    if launch >= 0 and made.runtime_calls.op[launch] >= 0:
        return int(made.runtime_calls.op[launch])
    named = np.flatnonzero(made.host_ops.external_id == external)
    is_id = external > 0 and external != made.kernels.correlation[row]
    return int(named[0]) if is_id and len(named) == 1 else -1


def overlapping(some_work: list[dict[str, int]]) -> int:
    found = 0
    ends: dict[tuple[int, int], int] = defaultdict(int)
    for w in sorted(some_work, key=lambda w: w["start_ns"]):
        if w["stream"] >= 0:
            key = (w["device"], w["stream"])
            found += w["start_ns"] < ends[key]
            ends[key] = max(ends[key], w["end_ns"])
    return found


def unfinished(made: Trace) -> int:
    """Launches outside captures whose number no kernel has."""
    done, found = set(made.kernels.correlation.tolist()), 0
    depth = [0, 0]
    calls = made.runtime_calls
    for name, thread, number in zip(calls.name, calls.thread, calls.correlation, strict=True):
        depth[thread] += int(name == BEGIN) - int(name == END)
        found += name == 1 and depth[thread] <= 0 and number >= 0 and number not in done
    return found if len(made.kernels) else 0
