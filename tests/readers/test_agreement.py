"""probe and a brute-force computation from the same file agree to the nanosecond, on every real trace at hand."""

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import brute_force
import numpy as np
import pytest
from brute_force import Recording, Step, Work
from hypothesis import given, settings
from hypothesis import strategies as st
from real_traces import trace_in

import probe
from probe.analyzers.ranks.summary import summarise
from probe.intervals import Intervals, clip, union
from probe.trace import DeviceWork, Trace


def files() -> list[str]:
    """Names of the real traces, from their folder; one stand-in that skips where there is none."""
    folder = Path(os.environ.get("PROBE_TEST_TRACES") or "no folder")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json*")) or ["no trace at hand"]


every_file = pytest.mark.parametrize("file", files())


@cache
def both(path: Path) -> tuple[Recording, Trace]:
    """The two readings of a file."""
    return brute_force.recording(*brute_force.kept_events(path)), trace_in(path)


def busy(trace: Trace) -> Intervals:
    """When the device worked."""
    kernels, copies = trace.kernels, trace.copies
    return union(np.append(kernels.start_ns, copies.start_ns), np.append(kernels.end_ns, copies.end_ns))


@every_file
def test_steps(foreign_traces: Path, file: str) -> None:
    recording, trace = both(foreign_traces / file)
    steps = zip(trace.steps.number, trace.steps.start_ns, trace.steps.end_ns, strict=True)
    origin = trace.start_unix_ns
    assert tuple(Step(int(n), int(a) + origin, int(b) + origin) for n, a, b in steps) == recording.steps


@every_file
def test_busy_and_idle_time(foreign_traces: Path, file: str) -> None:
    recording, trace = both(foreign_traces / file)
    on_device = busy(trace)
    if not recording.work:
        assert not len(on_device)
        return
    start, end = recording.span
    assert (on_device.starts[0] + trace.start_unix_ns, on_device.ends[-1] + trace.start_unix_ns) == (start, end)
    assert on_device.length_ns == brute_force.busy_ns(recording.work, (start, end))
    assert end - start - on_device.length_ns == brute_force.idle_ns(recording.work, (start, end))


@every_file
def test_idle_time_within_each_step(foreign_traces: Path, file: str) -> None:
    recording, trace = both(foreign_traces / file)
    on_device = busy(trace)
    idle = [
        int(end - start) - clip(on_device, int(start), int(end)).length_ns
        for start, end in zip(trace.steps.start_ns, trace.steps.end_ns, strict=True)
    ]
    assert idle == [brute_force.idle_ns(recording.work, (step.start, step.end)) for step in recording.steps]


@every_file
def test_kernels_by_name(foreign_traces: Path, file: str) -> None:
    recording, trace = both(foreign_traces / file)
    names, calls = np.unique(trace.kernels.name, return_counts=True)
    totals = {
        trace.names[name]: (int(n), int(trace.kernels.duration_ns[trace.kernels.name == name].sum()))
        for name, n in zip(names, calls, strict=True)
    }
    assert totals == brute_force.by_kernel(recording.work)
    assert len(trace.copies) == sum(not w.is_kernel for w in recording.work)


@every_file
def test_communication_of_each_step(foreign_traces: Path, file: str) -> None:
    recording, trace = both(foreign_traces / file)
    if not recording.work or not recording.steps:
        pytest.skip("no device work, or no marked steps")
    steps = summarise(trace, brute_force.rank_in(file)).steps
    spans = [(step.start, step.end) for step in recording.steps]
    assert steps.communication_ns.tolist() == [brute_force.communication_ns(recording.work, span) for span in spans]
    assert steps.exposed_communication_ns.tolist() == [brute_force.exposed_ns(recording.work, span) for span in spans]
    assert steps.idle_ns.tolist() == [brute_force.idle_ns(recording.work, span) for span in spans]


@every_file
def test_overlaps_on_a_stream(foreign_traces: Path, file: str) -> None:
    recording, trace = both(foreign_traces / file)
    assert overlaps_ns(trace.kernels, trace.copies) == brute_force.overlaps_ns(recording.work)
    assert trace.quality.overlapping == brute_force.overlapping(recording.work)


def overlaps_ns(kernels: DeviceWork, copies: DeviceWork) -> dict[tuple[int, int], int]:
    """For each device and stream, the sum of durations less the time covered."""
    start, end, device, stream = (
        np.append(getattr(kernels, name), getattr(copies, name)) for name in ("start_ns", "end_ns", "device", "stream")
    )
    found = {}
    for key in set(zip(device.tolist(), stream.tolist(), strict=True)):
        own = (device == key[0]) & (stream == key[1])
        found[key] = int((end - start)[own].sum()) - union(start[own], end[own]).length_ns
    return found


work = st.tuples(
    st.sampled_from([("ncclDevKernel_AllReduce", "kernel"), ("gemm", "kernel"), ("Memcpy HtoD", "gpu_memcpy")]),
    st.integers(0, 400),
    st.integers(0, 80),
    st.sampled_from([7, 8]),
)


@settings(max_examples=60)
@given(st.lists(work, min_size=1, max_size=12), st.integers(0, 200), st.integers(1, 300))
def test_any_device_work(rows: list[tuple[tuple[str, str], int, int, int]], start: int, length: int) -> None:
    """Work that overlaps in every way, steps that cut it anywhere."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        path.write_text(text([(name, cat, *rest) for (name, cat), *rest in rows], (start, length)))
        recording, trace = brute_force.read(path), probe.load(path)
    span = (start, start + length)
    steps = summarise(trace, 0).steps
    assert steps.communication_ns.tolist() == [brute_force.communication_ns(recording.work, span)]
    assert steps.exposed_communication_ns.tolist() == [brute_force.exposed_ns(recording.work, span)]
    assert steps.idle_ns.tolist() == [brute_force.idle_ns(recording.work, span)]
    assert overlaps_ns(trace.kernels, trace.copies) == brute_force.overlaps_ns(recording.work)


def text(rows: Sequence[tuple[Any, ...]], step: tuple[int, int], base_ns: int = 0) -> str:
    """A trace file of device work (name, category, start, duration, stream) and one step, nanoseconds."""
    events = [
        {"ph": "X", "cat": cat, "name": name, "ts": ts / 1000, "dur": dur / 1000, "pid": 0, "tid": stream}
        | {"args": {"device": 0, "stream": stream, "correlation": number}}
        for number, (name, cat, ts, dur, stream) in enumerate(rows, 1)
    ]
    mark = {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#3", "pid": 1, "tid": 1}
    events.append(mark | {"ts": step[0] / 1000, "dur": step[1] / 1000})
    return json.dumps({"baseTimeNanoseconds": base_ns, "traceEvents": events})


def test_the_brute_force_itself(tmp_path: Path) -> None:
    """By hand: communication 0-100, a kernel 40-60, a copy 90-130 on the first's stream, a kernel 200-210."""
    rows = [("nccl", "kernel", 0, 100, 7), ("k", "kernel", 40, 20, 8), ("c", "gpu_memcpy", 90, 40, 7)]
    path = tmp_path / "trace.json"
    path.write_text(text([*rows, ("k", "kernel", 200, 10, 8)], (50, 100), base_ns=1000))
    recording = brute_force.read(path)
    work, span = recording.work, recording.span
    assert recording.steps == (Step(3, 1050, 1150),) and span == (1000, 1210)
    assert work[0] == Work("nccl", True, 1000, 1100, 0, 7)
    assert (brute_force.busy_ns(work, span), brute_force.idle_ns(work, span)) == (140, 70)
    assert brute_force.idle_ns(work, (1050, 1150)) == 20
    assert (brute_force.communication_ns(work, span), brute_force.exposed_ns(work, span)) == (100, 70)
    assert brute_force.exposed_ns(work, (1050, 1150)) == 30
    assert brute_force.by_kernel(work) == {"nccl": (1, 100), "k": (2, 30)}
    assert brute_force.overlaps_ns(work) == {(0, 7): 10, (0, 8): 0}
    assert brute_force.overlapping([*work, Work("k", True, 1050, 1090, 0, 8)]) == 1
